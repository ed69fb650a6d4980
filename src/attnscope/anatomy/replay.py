"""Runs a model again with the output of some operations replaced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from attnscope.anatomy.record import record_forward


def replay(
    model: nn.Module, batch: Any, *, forward: Callable[[nn.Module, Any], Any],
    replace: Mapping[int, Callable[[Tensor, tuple[Any, ...]], Tensor]],
) -> Any:
    """Runs `forward(model, batch)` with the outputs of some operations replaced.

    Args:
        model: the unwrapped model, in the mode in which it is to run.
        batch: what `forward` takes.
        forward: calls the model.
        replace: `Step.index` -> function of the operation's output and its arguments that gives what the
            rest of the pass sees instead.

    Returns:
        the model's output, without a graph.
    """
    return record_forward(model, batch, forward, replace=replace).result
