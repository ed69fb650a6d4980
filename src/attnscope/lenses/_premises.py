"""What the gradient identities presuppose: projections that act linearly, and through their attention alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from attnscope.anatomy.blocks import Attention, ParameterSlice
from attnscope.anatomy.replay import replay
from attnscope.lenses._edits import edited_slices
from attnscope.lenses._movement import main_output, movement, tolerance
from attnscope.probe import Probe

_MASKED = 1e3  # scores of that size are masks: beside them a sum keeps no digit


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


def acts_linearly(probe: Probe, index: int, role: str, pieces: list[ParameterSlice]) -> bool:
    """Whether a projection enters its product linearly and alone.

    Its parameters are doubled, which is exact in binary: then what they make doubles exactly, and the scores
    (the result, for values) move as far as they do when the parameters are set to zero. A weight that is
    normalised, a second weight that is added, or scores by distance fail.

    Args:
        probe: the moment.
        index: of the attention in `anatomy.attentions`.
        role: `query`, `key` or `value`.
        pieces: the parameters that the identity takes for the whole projection.
    """
    runs = [probe.observation.attentions[index]]
    with probe.evaluating() as model, torch.no_grad():
        for change in (_doubled, torch.zeros_like):
            with edited_slices(model, pieces, change):
                runs.append(probe.observation_of(probe.batch).attentions[index])
    made = [tensor for run in runs if (tensor := getattr(run, role)) is not None]
    results = [tensor for run in runs if (tensor := run.context if role == "value" else run.scores) is not None]
    if len(made) < len(runs) or len(results) < len(runs):
        return False
    bound = tolerance(made[0].dtype)
    if movement(2 * made[0], made[1]) > bound or movement(torch.zeros_like(made[2]), made[2]) > 0.0:
        return False
    one, two, none = (item.double() for item in results)
    finite = torch.isfinite(one) & torch.isfinite(two) & torch.isfinite(none) & (one.abs() < _MASKED)
    bent = torch.where(finite, (two - one) - (one - none), torch.zeros_like(one)).abs().max()
    size = torch.where(finite, (two - none).abs(), torch.zeros_like(one)).max()
    return float(bent) <= 64 * bound * float(size.clamp(min=torch.finfo(torch.float64).tiny))


def _doubled(numbers: Tensor) -> Tensor:
    return 2.0 * numbers


def _whole(pieces: Any) -> list[ParameterSlice]:
    """Every piece once: heads may share one."""
    found: dict[tuple[str, int | None, Any], ParameterSlice] = {}
    for piece in pieces:
        found.setdefault((piece.parameter, piece.dim, piece.ranges), piece)
    return list(found.values())
