"""Tables whose norm has not moved in training although their numbers have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from attnscope.anatomy.blocks import Role
from attnscope.lenses import Lens
from attnscope.lenses._parameters import named
from attnscope.lenses._updated import updated
from attnscope.probe import Probe
from attnscope.readings import Reading

_ROLES = (Role.EMBEDDING, Role.POSITIONS)
_MOVED = 0.1  # of its norm; such a way changes a norm that nothing holds by percents
_ROUNDING = 1e-6  # of a norm that is cut back in single precision
_ROWS_ALIKE = 1e-4


@dataclass(frozen=True)
class HeldNorms(Lens):
    """How far the norm of each table of tokens or positions has moved since the start of training.

    **Measures** per table | ||W|| - ||W_0|| | / ||W_0||, with W_0 the numbers before the first step (unit 1).

    **Reading it** percents in a table that is trained. Under 1e-6 while the numbers themselves have moved by a tenth
    of the norm or more: after each step something scales the table back to the norm that it had.

    **Shapes** [block]: tables with a known start that the optimiser has updated. Facts: `held`: list of {block,
    parameter, moved, change}; tables all of whose rows have one norm are kept on a sphere on purpose and left out.

    **Cost** one pass over the tables.

    **Reference** none needed: a comparison of two norms.
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("block",)
    needs: ClassVar[tuple[str, ...]] = ("weights", "optimizer")

    def measure(self, probe: Probe) -> Reading:
        """Compares each table with its start."""
        if probe.start is None:
            return self.not_applicable("the parameters before training are not known: Case(start=...)")
        tables = list(_tables(probe))
        if not tables:
            return self.not_applicable("no table of tokens or positions has been trained by this optimiser")
        held: list[dict[str, Any]] = []
        changes: dict[str, float] = {}
        for block, parameter, now, then in tables:
            before = float(then.norm())
            change, moved = abs(float(now.norm()) - before) / before, float((now - then).norm()) / before
            changes[block] = change
            if change <= _ROUNDING and moved >= _MOVED and not _on_a_sphere(now):
                held.append({"block": block, "parameter": parameter, "moved": moved, "change": change})
        return self.reading(
            list(changes.values()), coords={"block": tuple(changes)}, step=probe.step, facts={"held": held}
        )


def _tables(probe: Probe) -> Iterator[tuple[str, str, Tensor, Tensor]]:
    """Block, parameter, its numbers now and at the start."""
    start, parameters, moved = probe.start or {}, named(probe.model), updated(probe)
    for block in probe.anatomy.blocks:
        for piece in block.slices if block.role in _ROLES else ():
            name = piece.parameter
            if piece.dim is not None or len(piece.shape) < 2 or name not in start or name not in moved:
                continue
            now, then = parameters[name].cpu(), start[name].cpu()
            if now.shape != then.shape or now.dtype not in (torch.float32, torch.float64):
                continue
            if bool(torch.isfinite(now).all()) and bool(torch.isfinite(then).all()) and bool(then.any()):
                yield block.name, name, now.double(), then.double()


def _on_a_sphere(table: Tensor) -> bool:
    norms = table.flatten(1).norm(dim=1) if table.ndim == 2 else table.flatten(0, -2).norm(dim=1)
    return len(norms) > 1 and float(norms.max() - norms.min()) <= _ROWS_ALIKE * float(norms.max())
