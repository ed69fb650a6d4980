"""A block's numbers changed for a moment, and put back exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from attnscope.anatomy.blocks import Block, ParameterSlice


@contextmanager
def edited(model: nn.Module, block: Block, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """The block's numbers are `change(numbers)` inside; nothing else of its parameters moves."""
    with edited_slices(model, block.slices, change):
        yield


@contextmanager
def edited_slices(
    model: nn.Module, pieces: Iterable[ParameterSlice], change: Callable[[Tensor], Tensor]
) -> Iterator[None]:
    """As `edited`, for slices of parameters."""
    parameters = dict(model.named_parameters())
    kept: list[tuple[Tensor, Tensor]] = []
    try:
        with torch.no_grad():
            for piece in pieces:
                for view in _views(parameters[piece.parameter], piece):
                    kept.append((view, view.clone()))
                    view.copy_(change(view))
        yield
    finally:
        with torch.no_grad():
            for view, numbers in reversed(kept):
                view.copy_(numbers)


def _views(parameter: Tensor, piece: ParameterSlice) -> list[Tensor]:
    data = parameter.detach()
    if piece.dim is None:
        return [data]
    return [data.narrow(piece.dim, start, stop - start) for start, stop in piece.ranges]
