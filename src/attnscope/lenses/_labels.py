"""Which tensor of the batch holds the targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from attnscope.lenses._batch import tensors

IGNORED = -100  # PyTorch's default `ignore_index`


def labels_path(batch: Any) -> str | None:
    """The path of the targets: the second of an (inputs, targets) pair, or a key that says so."""
    held = tensors(batch)
    if isinstance(batch, list | tuple) and len(batch) == 2 and isinstance(batch[1], Tensor):
        return "[1]"
    places = batch[1] if isinstance(batch, list | tuple) and len(batch) == 2 else batch
    if isinstance(places, Mapping) or hasattr(places, "__dict__"):
        for word in ("label", "target"):
            for path in held:
                if word in path.lower() and "mask" not in path.lower():
                    return path
    return None
