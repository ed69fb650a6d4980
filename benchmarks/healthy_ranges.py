"""Measures healthy models, trained and untrained, and keeps the ranges that rules compare with.

python benchmarks/healthy_ranges.py            # prints the ranges
python benchmarks/healthy_ranges.py --write    # and writes src/attnscope/diagnosis/healthy.json
"""

from __future__ import annotations

import argparse
import json
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attnscope import catalogue
from attnscope.anatomy.trace import trace
from attnscope.anatomy.unwrap import unwrapped
from attnscope.case import Case, Expectations, default_forward, default_loss
from attnscope.intentions import infer
from attnscope.probe import Probe
from attnscope.readings import Reading
from attnscope.tasks import learn

FILE = Path(__file__).parents[1] / "src" / "attnscope" / "diagnosis" / "healthy.json"
SEEDS = (0, 1, 2)
TASKS = ("copying", "topic_and_place", "keyed_documents", "moving_shapes", "placed_shapes")
TWO_MODELS = {"copying": ("gpt", "rotary_decoder")}


def numbers(reading: Reading) -> list[float]:
    """The values of a reading that are there."""
    return [float(value) for value in reading.values.ravel() if np.isfinite(value)] if reading.ok else []


def fact(name: str) -> Callable[[Reading], list[float]]:
    """The numbers of a nested fact."""

    def taken(reading: Reading) -> list[float]:
        def flat(value: Any) -> Iterator[float]:
            if isinstance(value, list | tuple):
                for item in value:
                    yield from flat(item)
            elif isinstance(value, int | float) and np.isfinite(value):
                yield float(value)

        return list(flat(reading.facts.get(name))) if reading.ok else []

    return taken


def saving(loss: str = "loss", everywhere: str = "") -> Callable[[Reading], list[float]]:
    """The share of the loss that the best change saves: changes that save less than 0.05 are rounding."""

    def taken(reading: Reading) -> list[float]:
        if not reading.ok or not float(reading.facts[loss]) > 0:
            return []
        kept = reading.facts.get(everywhere) or [True] * reading.values.size
        saved = [
            -value
            for value, falls in zip(reading.values.ravel(), kept, strict=True)
            if falls and value < -0.05
        ]
        return [max(saved, default=0.0) / float(reading.facts[loss])]

    return taken


# quantity -> (lens, which of its numbers)
QUANTITIES: dict[str, tuple[str, Callable[[Reading], list[float]]]] = {
    "norm_gain": ("norm_gain", numbers),
    "widest_row": ("largest_score", fact("widest_row")),
    "largest_score": ("largest_score", numbers),
    "saturated_share": ("largest_score", fact("saturated_share")),
    "token_spread": ("token_spread", numbers),
    "score_variance": ("score_variance", numbers),
    "attention_entropy": ("attention_entropy", numbers),
    "saved_by_exchange": ("exchanged_blocks", saving(everywhere="falls_everywhere")),
    "saved_by_shift": ("position_shift", saving()),
}


def cases() -> Iterator[tuple[str, Case]]:
    """Healthy models: the package's own, before and after training, and pre-trained ones that are installed."""
    for name in TASKS:
        for model in TWO_MODELS.get(name, (catalogue.load("tasks", name).model,)):
            for seed in SEEDS:
                task = catalogue.load("tasks", name)(seed=seed)
                torch.manual_seed(seed)
                built = catalogue.load("models", model)(**task.sizes)
                batches = [task.batch(500_000 + number, 16) for number in range(2)]
                yield f"{model}, untrained, seed {seed}", Case(built, batches, expects=task.expects)
                learn(built, task)
                yield f"{model}, trained, seed {seed}", Case(built, batches, expects=task.expects)
    yield from pretrained()


def pretrained() -> Iterator[tuple[str, Case]]:
    """A real encoder on real text, when its package is installed."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        from transformers import AutoTokenizer

        from attnscope.models.distilbert import Distilbert, weights_folder
        from attnscope.tasks.movie_reviews import MovieReviews

        model = Distilbert(pretrained=True).build()
        task = MovieReviews(max_length=32)
        batch = next(iter(task.batches(task.read()[0], AutoTokenizer.from_pretrained(weights_folder()))))
    except Exception as error:  # the package is optional; what was measured says what was there
        print(f"left out: pre-trained distilbert ({type(error).__name__}: {error})")
        return
    yield "distilbert, pre-trained", Case(model, [batch])


def measured(case: Case) -> dict[str, list[float]]:
    """Quantity -> its values in one model."""
    forward = case.forward or default_forward
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        anatomy = trace(case.model, case.batches[0], forward)
        probe = Probe(
            unwrapped(case.model)[0],
            tuple(case.batches),
            anatomy,
            forward,
            case.loss or default_loss,
            expects=Expectations.of(case.expects),
        )
        probe.expects, _ = infer(probe)
        readings: dict[str, Reading] = {}
        for lens, _ in QUANTITIES.values():
            if lens not in readings:
                member = catalogue.load("lenses", lens)()
                why_not = member.applies_to(anatomy)
                readings[lens] = member.not_applicable(why_not) if why_not else member.measure(probe)
    return {name: take(readings[lens]) for name, (lens, take) in QUANTITIES.items()}


def ranges() -> dict[str, Any]:
    """Everything that is written."""
    found: dict[str, list[float]] = {name: [] for name in QUANTITIES}
    models = []
    for name, case in cases():
        models.append(name)
        for quantity, values in measured(case).items():
            found[quantity] += values
    quantities = {
        name: {
            "lowest": float(f"{min(values):.4g}"),
            "highest": float(f"{max(values):.4g}"),
            "median": float(f"{np.median(values):.4g}"),
            "count": len(values),
        }
        for name, values in found.items()
        if values
    }
    command = "python benchmarks/healthy_ranges.py --write"
    return {"command": command, "torch": torch.__version__, "models": models, "quantities": quantities}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write {FILE.name}")
    write = parser.parse_args().write
    torch.set_num_threads(1)
    made = ranges()
    print(json.dumps(made["quantities"], indent=1))
    if write:
        FILE.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
