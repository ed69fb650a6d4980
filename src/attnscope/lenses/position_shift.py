"""Whether the loss would fall if every position were moved by a few places."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from attnscope.anatomy.blocks import Anatomy, Role
from attnscope.errors import CaseError
from attnscope.lenses import STANDARD, Lens
from attnscope.lenses._batch import examples, n_examples
from attnscope.lenses._sequence import main_sequence
from attnscope.probe import Probe
from attnscope.readings import Reading

_MOST_PARTS = 4


@dataclass(frozen=True)
class PositionShift(Lens):
    """How the loss changes when every absolute position is moved by a few places.

    **Measures**: the mean over batches (over parts of it, when there is one batch) of loss(positions + shift) -
    loss(positions), with its standard error, for shifts whose rows the table has. The shift is made by moving
    the rows of the table of positions. The facts say which rows are used (`first_row`, `last_row`, `n_rows`),
    whether all used rows are equal (`constant`) and whether one row serves all positions (`one_row`).

    **Reading it**: in a trained model 0 is the minimum. A clear minimum elsewhere: positions are shifted
    against those it was trained with. Near zero everywhere: positions are not used.

    **Shapes**: (shift,).

    **Cost**: one forward pass per shift and batch, and one gradient.

    **Reference**: an intervention; for the fault see Jahan and Rahman, 2025, arXiv:2508.04925.
    """

    shifts: tuple[int, ...] = (-4, -2, -1, 1, 2, 4)

    unit: ClassVar[str] = "loss"
    dims: ClassVar[tuple[str, ...]] = ("shift",)
    needs: ClassVar[tuple[str, ...]] = ("loss",)
    effort: ClassVar[str] = STANDARD

    def applies_to(self, anatomy: Anatomy) -> str:
        """Only to a learned table of absolute positions."""
        return "" if _tables(anatomy) else "the model has no learned table of absolute positions"

    def measure(self, probe: Probe) -> Reading:
        """Moves the rows of the table, looks at the loss, puts them back."""
        tables = _tables(probe.anatomy)
        if not tables:
            return self.not_applicable(self.applies_to(probe.anatomy))
        name, axis, n_rows = tables[0]
        gradient = probe.gradients.get(name)
        if gradient is None or not bool(gradient.any()):
            return self.not_applicable(f"{name} has no gradient, so no row of it is used")
        used = _by_row(gradient, axis).abs().amax(-1).nonzero().flatten()
        first, last = int(used.min()), int(used.max())
        shifts = [shift for shift in sorted({0, *self.shifts}) if first + shift >= 0 and last + shift < n_rows]
        with probe.evaluating() as model, torch.no_grad():
            parameter = dict(model.named_parameters())[name]
            rows = _by_row(parameter.detach(), axis)[first : last + 1]
            parts = _parts(probe, model)
            losses = np.array([_losses(probe, model, parts, parameter, axis, shift) for shift in shifts])
        apart = losses - losses[shifts.index(0)]
        count = apart.shape[1]
        return self.reading(
            apart.mean(1),
            stderr=apart.std(1, ddof=1) / np.sqrt(count) if count > 1 else None,
            coords={"shift": tuple(shifts)},
            step=probe.step,
            facts=_facts(probe, name, n_rows, used, rows, float(losses[shifts.index(0)].mean())),
        )


def _facts(probe: Probe, name: str, n_rows: int, used: Tensor, rows: Tensor, loss: float) -> dict[str, Any]:
    sequence = main_sequence(probe)
    length = None if sequence is None else sequence.length
    return {
        "parameter": name,
        "n_rows": n_rows,
        "first_row": int(used.min()),
        "last_row": int(used.max()),
        "length": length,
        "one_row": len(used) == 1 and (length or 0) > 1,
        "constant": len(rows) > 1 and bool((rows == rows[:1]).all()),
        "loss": loss,
    }


def _tables(anatomy: Anatomy) -> list[tuple[str, int, int]]:
    """(parameter, axis of positions, rows) of every learned table of absolute positions."""
    n_heads = {attention.n_heads for attention in anatomy.attentions if "relative bias" in attention.positions}
    found = []
    for block in anatomy.blocks:
        for piece in block.slices if block.role is Role.POSITIONS else ():
            if len(piece.shape) < 2 or piece.shape[-1] in n_heads or piece.dim is not None:
                continue
            axis = max(range(len(piece.shape) - 1), key=lambda dim: piece.shape[dim])
            found.append((piece.parameter, axis, piece.shape[axis]))
    return found


def _by_row(table: Tensor, axis: int) -> Tensor:
    return table.movedim(axis, 0).flatten(1)


def _parts(probe: Probe, model: nn.Module) -> list[Any]:
    """The batches; a lone batch is cut into parts where that works, so that an error can be given."""
    if len(probe.batches) > 1:
        return list(probe.batches)
    count = n_examples(probe, probe.batch) or 1
    groups = np.array_split(np.arange(count), min(count, _MOST_PARTS))
    parts = [examples(probe.batch, [int(index) for index in group], count) for group in groups]
    try:
        for part in parts:
            probe.loss_of(model, part)
    except CaseError:
        return [probe.batch]
    return parts if count > 1 else [probe.batch]


def _losses(probe: Probe, model: nn.Module, parts: list[Any], parameter: Tensor, axis: int, shift: int) -> list[float]:
    """The loss of every part, with position i reading row i + shift."""
    kept = parameter.detach().clone()
    parameter.copy_(kept.roll(-shift, axis))
    try:
        return [float(probe.loss_of(model, part)) for part in parts]
    finally:
        parameter.copy_(kept)
