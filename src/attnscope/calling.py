"""How a model is called on a batch when the user does not say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


def default_forward(model: nn.Module, batch: Any) -> Any:
    """Runs the model: a mapping as keywords, the first element of an (inputs, targets) pair, or the batch."""
    if isinstance(batch, Mapping):
        return model(**batch)
    if isinstance(batch, list | tuple) and len(batch) == 2:
        inputs = batch[0]
        if isinstance(inputs, Mapping):
            return model(**inputs)
        if isinstance(inputs, list | tuple):
            return model(*inputs)
        return model(inputs)
    return model(batch)
