"""What the benchmark's subjects reach when nothing is wrong with them.

    ATTNSCOPE_DATA=DIR python benchmarks/bench_subjects.py      six seeds of each; writes docs/bench_subjects.md

Trains every subject that is available on this machine, with one thread. Seconds are the processor's. A subject
that is not available is named with what it needs; its row is left as the page has it.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from attnscope import catalogue
from attnscope.bench.subjects import Subject
from attnscope.case import Case, default_forward, default_loss
from attnscope.faults import anatomy_of

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "bench_subjects.json"
PAGE = ROOT / "docs" / "bench_subjects.md"
SEEDS = range(6)


def main() -> None:
    """Measures, stores the numbers, writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = catalogue.names("subjects")
    parser.add_argument("--only", nargs="*", default=every, help="names of subjects; none: only the page")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="how many (default 6)")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for name in chosen.only:
        kind = catalogue.load("subjects", name)
        if reason := kind().unavailable():
            print(f"{name}: {reason}")
            continue
        results[name] = measured(kind, chosen.seeds)
        print(name, json.dumps(results[name]), flush=True)
        RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    PAGE.write_text(page(results), encoding="utf-8")


def measured(kind: type[Subject], n_seeds: int) -> dict[str, Any]:
    """One subject over its seeds."""
    qualities, seconds = [], []
    kind().batch(0)  # reads the data, which all trainings of a process share
    for seed in range(n_seeds):
        subject = kind(seed=seed)
        case = subject.case()
        begun = time.process_time()
        subject.trained(case)
        seconds.append(time.process_time() - begun)
        qualities.append(subject.quality(case))
    return {
        "parameters": sum(parameter.numel() for parameter in case.model.parameters()),
        "blocks": len(anatomy_of(case).blocks),
        "attentions": len(anatomy_of(case).attentions),
        "seconds": mean(seconds),
        "gradient_ms": 1000 * gradient_seconds(case),
        "qualities": qualities,
    }


def gradient_seconds(case: Case) -> float:
    """The shortest of five gradients of a probe batch."""
    batch = next(iter(case.batches))
    found = []
    for _ in range(5):
        begun = time.process_time()
        output = (case.forward or default_forward)(case.model.eval(), batch)
        loss = (case.loss or default_loss)(output, batch)
        torch.autograd.grad(loss, list(case.model.parameters()))
        found.append(time.process_time() - begun)
    return min(found)


def page(results: dict[str, dict[str, Any]]) -> str:
    """The page."""
    lines = [
        "# What is trained in the benchmark",
        "",
        "Each subject is one model on one task, as it is when nothing is wrong. Quality is the share of held-out",
        f"answers that are right, over {len(SEEDS)} seeds; *promised* is what every healthy seed must reach. Seconds",
        "are the processor's, of one training with one thread, measured beside other work; *gradient* is one gradient",
        "of a probe batch.",
        "",
        "| subject | model | task | parameters | blocks | attentions | steps | seconds | gradient, ms "
        "| quality: least | mean | most | promised | chance |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name in sorted(results):
        kind, found = catalogue.load("subjects", name), results[name]
        reached = found["qualities"]
        lines.append(
            f"| {name} | {kind.model} | {kind.task} | {found['parameters']:,} | {found['blocks']} "
            f"| {found['attentions']} | {kind.steps} | {found['seconds']:.1f} | {found['gradient_ms']:.1f} "
            f"| {min(reached):.3f} | {mean(reached):.3f} | {max(reached):.3f} | {kind.healthy_quality:g} "
            f"| {kind.chance:.2g} |"
        )
    lines += ["", "## The tasks, and what the field reports", ""]
    for name in sorted(results):
        kind = catalogue.load("subjects", name)
        lines += [f"**{name}.** {section(kind, 'Task')} *Healthy:* {section(kind, 'Healthy')}", ""]
    lines += ["Made by `python benchmarks/bench_subjects.py`.", ""]
    return "\n".join(lines)


def section(kind: type[Subject], title: str) -> str:
    """A section of a subject's docstring, as one line."""
    told = (kind.__doc__ or "").partition(f"**{title}**:")[2].partition("\n\n")[0]
    found = " ".join(told.split())
    return found[:1].upper() + found[1:]


if __name__ == "__main__":
    main()
