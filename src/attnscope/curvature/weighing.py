"""How a loss weighs its examples, and batches cut into pieces that add up to the whole.

The loss of the whole is `sum_p coefficient_p * loss(piece_p)`. Whether a loss averages over examples, over
counted targets or adds up is not assumed: it is read from its gradients on a small part of the data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attnscope.curvature.batches import examples, n_examples
from attnscope.errors import CaseError

IGNORED_TARGET = -100  # what PyTorch's losses ignore by default
Weigh = Callable[[Any], float]


@dataclass(frozen=True)
class Piece:
    """Part of a batch: which batch, which examples, and its share in the loss of the whole."""

    batch: int
    start: int
    data: Any
    coefficient: float = 1.0


def _targets(batch: Any) -> Tensor | None:
    """The integer targets: `labels` of a mapping, or the second element of a pair."""
    found: Any = None
    if isinstance(batch, Mapping):
        found = batch.get("labels")
    elif isinstance(batch, list | tuple) and len(batch) == 2:
        found = batch[1]
    return found if isinstance(found, Tensor) and not found.is_floating_point() and found.ndim else None


def _n_targets(batch: Any) -> float:
    targets = _targets(batch)
    return float("nan") if targets is None else float((targets != IGNORED_TARGET).sum())


def _n_next_targets(batch: Any) -> float:
    targets = _targets(batch)
    if targets is None or targets.ndim < 2:
        return float("nan")
    return float((targets[:, 1:] != IGNORED_TARGET).sum())


def _n_examples(batch: Any) -> float:
    return float(n_examples(batch) or 0)


def _n_unmasked(batch: Any) -> float:
    mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
    return float(mask.sum()) if isinstance(mask, Tensor) else float("nan")


def _one(_: Any) -> float:
    return 1.0


WEIGHINGS: Mapping[str, Weigh] = {
    "examples": _n_examples,
    "targets": _n_targets,
    "next targets": _n_next_targets,
    "unmasked positions": _n_unmasked,
}
SUM = "sum"  # the loss adds its examples up instead of averaging them


def read_weighing(
    parts: Sequence[Any], whole: Any, gradient: Callable[[Any], Tensor], tolerance: float
) -> str | None:
    """Which weighing makes the gradient of the whole the weighted sum of the gradients of its parts.

    Args:
        parts: pieces that make up `whole`.
        whole: the pieces together.
        gradient: of the loss on a piece, flat.
        tolerance: relative error that rounding explains.

    Returns:
        `sum` or a name in `WEIGHINGS`; None when none fits: the loss mixes examples, or weighs them in
        another way.
    """
    target = gradient(whole)
    if not bool(target.isfinite().all()):
        return next(iter(WEIGHINGS))  # the first pass over the data will say what is not finite
    of_parts = [gradient(part) for part in parts]
    size = float(target.norm()) + max(float(part.norm()) for part in of_parts)
    errors: dict[str, float] = {}
    for name in (*WEIGHINGS, SUM):
        if name == SUM:
            shares = [1.0] * len(parts)
        else:
            weights = [WEIGHINGS[name](part) for part in parts]
            total = sum(weights)
            if not min(weights) > 0:
                continue
            shares = [weight / total for weight in weights]
        combined = sum((share * part for share, part in zip(shares, of_parts, strict=True)),
                       torch.zeros_like(target))
        errors[name] = float((combined - target).norm()) / size if size else 0.0
    best = min(errors, key=lambda name: errors[name])
    if not errors[best] <= tolerance:
        return None
    # Equal to rounding: the simplest reading wins.
    return next(name for name, error in errors.items() if error <= max(10 * errors[best], tolerance / 100))


def pieces_of(
    batches: Sequence[Any], max_examples: int | None, weigh: Weigh, adds_up: bool
) -> tuple[Piece, ...]:
    """The batches, cut into pieces of at most `max_examples`, with their coefficients.

    Raises:
        CaseError: a weight that is not a positive number.
    """
    weights = [1.0 if adds_up else weigh(batch) for batch in batches]
    for index, weight in enumerate(weights):
        if not 0 < weight < float("inf"):
            raise CaseError(f"batch {index} has weight {weight}; it must be a positive number")
    total = sum(weights)
    found: list[Piece] = []
    for index, batch in enumerate(batches):
        count = n_examples(batch)
        if max_examples is None or count is None or count <= max_examples:
            found.append(Piece(index, 0, batch, weights[index] / total))
            continue
        for start in range(0, count, max_examples):
            part = examples(batch, start, min(start + max_examples, count))
            share = 1.0 if adds_up else weigh(part) / weights[index]
            if share:
                found.append(Piece(index, start, part, share * weights[index] / total))
    return tuple(found)


def cut_and_weighed(
    batches: Sequence[Any], max_examples: int | None, weigh: Weigh | None,
    gradient: Callable[[Any], Tensor], tolerance: float,
) -> tuple[str, tuple[Piece, ...]]:
    """The batches in pieces of at most `max_examples`, and how they are weighed.

    Args:
        batches: as given, cast.
        max_examples: None cuts nothing.
        weigh: the user's weighing, which is believed; None reads it from the loss.
        gradient: of the loss on a piece, flat.
        tolerance: relative error of a gradient that rounding explains.

    Raises:
        CaseError: a batch has to be cut and cannot be: the message says why.
    """
    cut = max_examples is not None and any((n_examples(batch) or 0) > max_examples for batch in batches)
    if max_examples is not None and any(n_examples(batch) is None for batch in batches):
        raise CaseError(
            "a batch cannot be split, because it holds no tensor with a batch dimension; pass smaller "
            "batches instead of max_examples"
        )
    if not cut and len(batches) == 1:
        return "single", pieces_of(batches, None, _one, True)
    if weigh is not None:
        return "given", pieces_of(batches, max_examples, weigh, False)
    found = _telling_parts(batches, max_examples if cut else None)
    try:
        name = None if found is None else read_weighing(*found, gradient, tolerance)
    except (CaseError, RuntimeError, ValueError, TypeError, IndexError) as error:
        if cut:
            raise CaseError(
                f"the model fails on part of a batch ({type(error).__name__}: {error}); pass smaller batches "
                "instead of max_examples"
            ) from error
        name = None  # the model does not take part of a batch, and need not
    if name is None and cut:
        raise CaseError(
            "the batch cannot be split: the gradients of its parts do not add up to the gradient of the "
            "whole, neither as a sum nor as a mean over examples, targets or unmasked positions. Either "
            "examples influence each other, or the mean is weighed in another way: pass weigh=..., or pass "
            "smaller batches instead of max_examples"
        )
    name = name or "examples"
    if name != SUM and any(not WEIGHINGS[name](batch) > 0 for batch in batches):
        name = "batches"
    return name, pieces_of(batches, max_examples, WEIGHINGS.get(name, _one), name == SUM)


def _telling_parts(batches: Sequence[Any], max_examples: int | None) -> tuple[list[Any], Any] | None:
    """Two neighbouring parts and their union, where the weighings differ most; None: nothing can be cut."""
    best: tuple[float, list[Any], Any] | None = None
    for batch in batches:
        count = n_examples(batch) or 0
        step = max_examples if max_examples is not None else (count + 1) // 2
        for start in range(0, count - step if step else 0, max(step, 1)):
            ends = start + step, start + 2 * step
            parts = [examples(batch, start, ends[0]), examples(batch, ends[0], ends[1])]
            pairs = [[weigh(part) for part in parts] for weigh in WEIGHINGS.values()]
            shares = [pair[0] / sum(pair) for pair in pairs if min(pair) > 0]
            spread = max(shares) - min(shares) if shares else -1.0
            if best is None or spread > best[0]:
                best = spread, parts, examples(batch, start, ends[1])
    return None if best is None else best[1:]
