"""Spectra of the heads of a pre-trained encoder, and what fine-tuning changes in them.

python benchmarks/attention_ranks.py            # prints the page
python benchmarks/attention_ranks.py --write    # and writes docs/attention_ranks.md

Needs the packages of the demo: pip install 'attnscope[demo,hf]'.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from attnscope.case import Case
from attnscope.models.distilbert import Distilbert, weights_folder
from attnscope.readings import Reading
from attnscope.record import Run
from attnscope.tasks.movie_reviews import MovieReviews
from attnscope.training import train

PAGE = Path(__file__).parents[1] / "docs" / "attention_ranks.md"
LENSES = (
    "query_key_spectrum",
    "value_output_spectrum",
    "query_key_change",
    "value_output_change",
    "query_key_balance",
    "balance_step",
    "balance_drift",
)
STEPS, SEED = 60, 0
OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "AdamW, rate 5e-5": lambda model: torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.01),
    "plain gradient descent, rate 0.05": lambda model: torch.optim.SGD(model.parameters(), lr=0.05),
}


def fine_tuned(optimizer: Callable[[nn.Module], torch.optim.Optimizer], steps: int = STEPS) -> Run:
    """all-MiniLM-L6-v2 with a new classifier, fine-tuned on movie reviews; measured before, midway and after."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers import AutoTokenizer

    model = Distilbert(pretrained=True, seed=SEED).build()
    task = MovieReviews(max_length=32, seed=SEED)
    training, held_out = task.read()
    tokenizer = AutoTokenizer.from_pretrained(weights_folder())
    measured = list(itertools.islice(task.batches(held_out, tokenizer), 1))
    case = Case(model, measured, optimizer=optimizer(model), name="all-MiniLM-L6-v2")
    source: Iterator[Any] = itertools.islice(task.batches(training, tokenizer), steps)
    return train(case, steps, lenses=LENSES, every=max(steps // 2, 1), batches=source)


def summary(reading: Reading, layer: int) -> dict[str, float]:
    """Of one layer's heads: mean and lowest of both ranks, those of random factors, and the nuclear share."""
    facts = reading.facts
    twins = facts["random"][layer]
    found = {"nuclear_share": statistics.mean(facts["nuclear_share"][layer])}
    for rank in ("effective_rank", "stable_rank"):
        own = facts[rank][layer]
        found |= {f"{rank} mean": statistics.mean(own), f"{rank} lowest": min(own)}
        found[f"{rank} random"] = statistics.mean(twin[rank] for twin in twins)
    return found


def table(reading: Reading) -> list[str]:
    """One row a layer."""
    lines = [
        "| layer | effective rank | lowest head | random | stable rank | lowest head | random | nuclear share |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for layer in range(len(reading.facts["random"])):
        found = summary(reading, layer)
        cells = [f"{found[f'{rank} {what}']:.1f}" for rank in ("effective_rank", "stable_rank")
                 for what in ("mean", "lowest", "random")]  # fmt: skip
        lines.append(f"| L{layer} | " + " | ".join(cells) + f" | {found['nuclear_share']:.3g} |")
    return lines


def balance_lines(run: Run) -> list[str]:
    """What the laws of the balance say at the end of a run."""
    at = run.at(run.steps[-1])
    step, drift = at["balance_step"], at["balance_drift"]
    if not step.ok or not drift.ok:
        return [f"The balance has no law here ({(drift if step.ok else step).note}), and nothing is claimed."]
    tolerance, allowance = (float(np.nanmax(np.array(fact, float))) for fact in (step.facts["tolerance"],
                                                                                drift.facts["allowance"]))  # fmt: skip
    told = int(np.isfinite(step.values).sum())
    return [
        f"A step moves the balance of queries and keys as predicted within {float(np.nanmax(step.values)):.1e} of the "
        f"movement (rounding allows {tolerance:.1e}; {told} of {step.values.size} heads move enough in one step to "
        f"tell). Since the start it drifted by at most {float(np.nanmax(drift.values)):.1e} of the movement; finite "
        f"steps explain up to {allowance:.1e}."
    ]


def page() -> str:
    """The whole page."""
    lines = [
        "# The ranks of a pre-trained encoder's heads, and of what fine-tuning changes",
        "",
        f"Made by `python benchmarks/attention_ranks.py --write` (torch {torch.__version__}, seed {SEED}): "
        "all-MiniLM-L6-v2 (6 layers of 12 heads, 32 wide), before and after fine-tuning on sentences of Rotten "
        f"Tomatoes for {STEPS} steps of 16. Means over the heads of a layer, the lowest head, and Gaussian factors of "
        "the same shape and size. The nuclear share is the nuclear norm over half the sum of squares of both weights.",
    ]
    for number, (name, optimizer) in enumerate(OPTIMIZERS.items()):
        run = fine_tuned(optimizer)
        first, last = run.at(run.steps[0]), run.at(run.steps[-1])
        if number == 0:
            balance = first["query_key_balance"].values.mean(1)
            lines += ["", "## Before", "", "W_Q^T W_K:", "", *table(first["query_key_spectrum"])]
            lines += ["", "W_V^T W_O:", "", *table(first["value_output_spectrum"]), ""]
            lines.append(
                f"The effective rank is near that of random factors, so it alone does not show what was learned; the "
                f"stable rank does. Queries and keys differ by {balance.min():.2f} to {balance.max():.2f} of their "
                "size (relative imbalance, mean of a layer)."
            )
        losses = [float(run.at(step)["training_loss"].values) for step in run.steps if "training_loss" in run.at(step)]
        lines += ["", f"## After {name}", "", f"Mean loss of the halves of the run: {losses[0]:.3f}, {losses[-1]:.3f}."]
        lines += ["", "The change of W_Q^T W_K:", "", *table(last["query_key_change"])]
        lines += ["", "The change of W_V^T W_O:", "", *table(last["value_output_change"])]
        lines += ["", *balance_lines(run)]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"write docs/{PAGE.name}")
    write = parser.parse_args().write
    torch.set_num_threads(1)
    made = page()
    print(made)
    if write:
        PAGE.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
