"""What things cost, on one page: the start of commands, a trace, and a diagnosis of the demo's model.

    python benchmarks/costs.py                    measures all, and writes docs/costs.md
    python benchmarks/costs.py --process-time      in processor seconds: the honest clock on a busy machine

The tables come from startup.py and trace_cost.py, which print the same alone.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from attnscope.demo import EXAMINED, _distilbert
from attnscope.examine import diagnose
from attnscope.lenses import EFFORTS

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Measures and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--process-time", action="store_true", help="processor seconds instead of the wall's")
    chosen = parser.parse_args()
    extra = ["--process-time"] if chosen.process_time else []
    starts, traces = told("startup.py", extra), told("trace_cost.py", extra)
    diagnoses = [diagnosed(effort, chosen.process_time) for effort in EFFORTS if effort != "deep"]
    page = written(starts, traces, diagnoses, chosen.process_time)
    (ROOT / "docs" / "costs.md").write_text(page, encoding="utf-8")
    print(page)


def told(script: str, extra: list[str]) -> list[dict[str, Any]]:
    """What one of the benchmarks measures."""
    command = [sys.executable, str(ROOT / "benchmarks" / script), "--json", *extra]
    said = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)  # 1 says that a promise broke
    found: list[dict[str, Any]] = json.loads(said.stdout)
    return found


def diagnosed(effort: str, process_time: bool) -> dict[str, Any]:
    """The cost of one diagnosis of the pre-trained encoder, beside one gradient of the same batch."""
    case, _ = _distilbert(0)
    case.batches = list(case.batches)[:EXAMINED]
    clock = time.process_time if process_time else time.perf_counter
    batch = case.batches[0]
    gradients = []
    for _ in range(3):
        begun = clock()
        case.model(**batch).loss.backward()
        case.model.zero_grad(set_to_none=True)
        gradients.append(clock() - begun)
    begun = clock()
    diagnosis = diagnose(case, effort=effort)
    seconds = clock() - begun
    return {
        "effort": effort, "seconds": seconds, "gradient": min(gradients), "readings": len(diagnosis.readings),
        "findings": len(diagnosis.at_least("warning")),
    }


def written(
    starts: list[dict[str, Any]], traces: list[dict[str, Any]], diagnoses: list[dict[str, Any]], process_time: bool
) -> str:
    """The page."""
    clock = "processor seconds" if process_time else "seconds on the wall"
    load = os.getloadavg()[0]
    lines = [
        "# What things cost",
        "",
        f"Made by `python benchmarks/costs.py{' --process-time' if process_time else ''}`; do not edit. Medians, in "
        f"{clock}, on {os.cpu_count()} cores with {torch.get_num_threads()} thread(s) for torch (load {load:.1f} at "
        f"the end), Python {platform.python_version()}, torch {torch.__version__}.",
        "",
        "## From the shell to the last line",
        "",
        "Whole processes; none of these commands loads torch.",
        "",
        "| command | seconds |",
        "|---|---:|",
        *(f"| `{row['command']}` | {row['seconds']:.2f} |" for row in starts),
        "",
        "## A trace, beside a plain forward pass",
        "",
        "The promise is three forward passes plus a quarter second.",
        "",
        "| model | attentions | forward | trace | ratio | kept |",
        "|---|---:|---:|---:|---:|---|",
        *(
            f"| {row['model']} | {row['attentions']} | {row['forward']:.3f} | {row['trace']:.3f} | "
            f"{row['ratio']:.1f} | {'yes' if row['kept'] else '**no**'} |"
            for row in traces
        ),
        "",
        "## A diagnosis of the demo's encoder (six layers, 12 heads, 384 wide, 16 texts of at most 32 tokens)",
        "",
        "| effort | readings | findings | seconds | one gradient | in gradients |",
        "|---|---:|---:|---:|---:|---:|",
        *(
            f"| {row['effort']} | {row['readings']} | {row['findings']} | {row['seconds']:.1f} "
            f"| {row['gradient']:.3f} | {row['seconds'] / row['gradient']:.0f} |"
            for row in diagnoses
        ),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
