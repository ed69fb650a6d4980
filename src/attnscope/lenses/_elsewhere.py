"""Whether projections of an attention reach the output on another way than through the attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from attnscope.anatomy.blocks import Attention, ParameterSlice
from attnscope.anatomy.replay import replay
from attnscope.lenses._edits import edited_slices
from attnscope.lenses._movement import main_output, movement
from attnscope.probe import Probe


def used_elsewhere(probe: Probe, attention: Attention, roles: tuple[str, ...], step_index: int | None) -> bool:
    """Whether the output moves with these projections although what they make in the attention is held fixed.

    The set transformer adds its projected queries to its output, for one; then their gradient is more than
    what comes through the scores.

    Args:
        probe: the moment.
        attention: whose projections are changed.
        roles: which of them.
        step_index: the operation behind which the attention's own use of them ends.
    """
    pieces = _whole(piece for role in roles for head in attention.head_slices.get(role, ()) for piece in head)
    if step_index is None or not pieces:
        return False
    kept: dict[int, Tensor] = {}

    def keep(output: Tensor, args: tuple[Any, ...]) -> Tensor:
        kept[step_index] = output.clone()
        return output

    def change(numbers: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(probe.seed)
        spread = numbers.detach().float().std(unbiased=False).clamp(min=1e-3)
        return numbers + (spread.cpu() * torch.randn(numbers.shape, generator=generator)).to(numbers)

    with probe.evaluating() as model, torch.no_grad():
        before = main_output(replay(model, probe.batch, forward=probe.forward, replace={step_index: keep}))
        if before is None or step_index not in kept:
            return False
        before = before.clone()
        with edited_slices(model, pieces, change):
            held = {step_index: lambda output, args: kept[step_index]}
            after = main_output(replay(model, probe.batch, forward=probe.forward, replace=held))
    return after is None or after.shape != before.shape or movement(before, after) > 0.0


def _whole(pieces: Any) -> list[ParameterSlice]:
    """Every piece once: heads may share one."""
    found: dict[tuple[str, int | None, Any], ParameterSlice] = {}
    for piece in pieces:
        found.setdefault((piece.parameter, piece.dim, piece.ranges), piece)
    return list(found.values())
