"""Trains healthy models and keeps the ranges of what rules compare over a training.

python benchmarks/healthy_runs.py            # prints the ranges
python benchmarks/healthy_runs.py --write    # and writes src/attnscope/diagnosis/healthy_runs.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from attnscope import catalogue
from attnscope.case import Case
from attnscope.readings import Reading
from attnscope.record import Run
from attnscope.tasks import Task
from attnscope.training import train

FILE = Path(__file__).parents[1] / "src" / "attnscope" / "diagnosis" / "healthy_runs.json"
TASKS = ("copying", "topic_and_place", "keyed_documents", "placed_shapes")
STEPS, SEEDS = 200, (0, 1)
LENSES = ("balance_drift", "query_key_spectrum")


def descent(rate: float, decay: float = 0.0) -> Callable[[nn.Module], torch.optim.Optimizer]:
    """Plain gradient descent."""
    return lambda model: torch.optim.SGD(model.parameters(), lr=rate, weight_decay=decay)


def adamw(rate: float, decay: float) -> Callable[[nn.Module], torch.optim.Optimizer]:
    """AdamW."""
    return lambda model: torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay)


OPTIMIZERS = {
    "SGD 0.03": descent(0.03),
    "SGD 0.1": descent(0.1),
    "SGD 0.3": descent(0.3),
    "SGD 0.1, decay 1e-3": descent(0.1, 1e-3),
    "AdamW 3e-3, decay 0.01": adamw(3e-3, 0.01),
    "AdamW 3e-3, decay 0.1": adamw(3e-3, 0.1),
    "AdamW 1e-2, decay 0.1": adamw(1e-2, 0.1),
}


def runs() -> Iterator[tuple[str, Run]]:
    """Every model with every optimiser and seed; the longest of them twice as long as they need."""
    for name in TASKS:
        for optimizer, make in OPTIMIZERS.items():
            for seed in SEEDS:
                task: Task = catalogue.load("tasks", name)(seed=seed)
                torch.manual_seed(seed)
                model = catalogue.load("models", task.model)(**task.sizes)
                case = Case(model, [task.batch(500_000, 16)], optimizer=make(model), expects=task.expects)
                steps = 2 * STEPS if optimizer.startswith("AdamW 3e-3") else STEPS
                source = (task.batch(number, 32) for number in range(steps))
                yield f"{task.model}, {optimizer}, seed {seed}", train(
                    case, steps, lenses=LENSES, every=100, batches=source
                )


def _flat(value: Any) -> list[float]:
    if isinstance(value, list | tuple):
        return [number for item in value for number in _flat(item)]
    return [float(value)] if value is not None and np.isfinite(value) else []


def _random(reading: Reading, name: str) -> list[float]:
    return [head[name] for layer in reading.facts["random"] if layer for head in layer]


def measured(run: Run) -> dict[str, list[float]]:
    """Quantity -> its values at every reading of one run; the drift is the median of a layer's heads."""
    found: dict[str, list[float]] = {"balance_drift": [], "rank_beside_random": [], "rank_left": []}
    start: list[float] | None = None
    for step in run.steps:
        at = run.at(step)
        drift, spectrum = at["balance_drift"], at["query_key_spectrum"]
        if drift.ok:
            found["balance_drift"] += [float(np.nanmedian(row)) for row in drift.values if np.isfinite(row).any()]
        if spectrum.ok:
            ranks = _flat(spectrum.facts["effective_rank"])
            start = ranks if start is None else start
            twins = _random(spectrum, "effective_rank")
            found["rank_beside_random"] += [own / twin for own, twin in zip(ranks, twins, strict=True)]
            found["rank_left"] += [own / first for own, first in zip(ranks, start, strict=True)]
    return found


def ranges() -> dict[str, Any]:
    """Everything that is written."""
    values: dict[str, list[float]] = {}
    names = []
    for name, run in runs():
        names.append(name)
        own = measured(run)
        shown = {key: (round(min(item), 3), round(max(item), 3)) for key, item in own.items() if item}
        print(f"{name:44} {shown}", flush=True)
        for quantity, numbers in own.items():
            values.setdefault(quantity, []).extend(numbers)
    quantities = {
        name: {
            "lowest": float(f"{min(numbers):.4g}"),
            "highest": float(f"{max(numbers):.4g}"),
            "median": float(f"{np.median(numbers):.4g}"),
            "count": len(numbers),
        }
        for name, numbers in values.items()
    }
    command = "python benchmarks/healthy_runs.py --write"
    return {"command": command, "torch": torch.__version__, "models": names, "quantities": quantities}


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
