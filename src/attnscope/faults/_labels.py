"""Labels and tokens in the two forms of a batch: a mapping with `labels`, and an (inputs, targets) pair."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def labels_of(batch: Any) -> Tensor | None:
    """The labels of a batch, or None."""
    if isinstance(batch, Mapping):
        found = batch.get("labels")
    else:
        found = batch[1] if isinstance(batch, list | tuple) and len(batch) == 2 else None
    return found if isinstance(found, Tensor) else None


def tokens_of(batch: Any) -> Tensor | None:
    """The tokens of a batch: `input_ids`, or the inputs of a pair when they are integers."""
    inputs = batch if isinstance(batch, Mapping) else batch[0] if isinstance(batch, list | tuple) else None
    found = inputs.get("input_ids") if isinstance(inputs, Mapping) else inputs
    return found if isinstance(found, Tensor) and not found.is_floating_point() else None


def with_labels(batch: Any, labels: Tensor) -> Any:
    """The same batch with other labels."""
    if isinstance(batch, Mapping):
        return {**batch, "labels": labels}
    return type(batch)((batch[0], labels))
