"""Rows of tables of positions, and units of networks, that training has moved and that are copies of each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from attnscope.anatomy.blocks import Block, Role
from attnscope.lenses import Lens
from attnscope.lenses._parameters import named
from attnscope.lenses._updated import updated
from attnscope.probe import Probe
from attnscope.readings import Reading

_SHORTEST = 8  # numbers that a line must hold: a few steps of one size each bring short ones together by chance
_ROLES = (Role.POSITIONS, Role.MLP)


@dataclass(frozen=True)
class EqualLines(Lens):
    """How many rows of a table of positions, or units of a network, are copies of another that training has moved.

    **Measures** per block of positions or of a feed-forward network the number of lines (rows or columns) that agree
    bit for bit with another line, both of which the optimiser's memory of gradients says to have been updated (unit
    lines). Rows of zeros are left out in networks.

    **Reading it** 0 in a trained model: two lines that get different gradients part at the first step. Equal rows of
    positions: something writes over them, or all positions look the same to the model. Equal units of a network: they
    started from one constant and stay equal for ever. A table that was never trained, or rows that no text is long
    enough to reach, have no memory and do not count.

    **Shapes** [block]: the blocks of those roles. Facts: `equal`: list of {block, parameter, role, axis, size, of,
    first, last, zero}: `of` lines were updated, the largest group of equal ones has `size`, from `first` to `last`.

    **Cost** one pass over the parameters.

    **Reference** symmetry of hidden units: Goodfellow, Bengio and Courville, Deep Learning (2016), section 8.4.
    """

    unit: ClassVar[str] = "lines"
    dims: ClassVar[tuple[str, ...]] = ("block",)
    needs: ClassVar[tuple[str, ...]] = ("weights", "optimizer")

    def measure(self, probe: Probe) -> Reading:
        """Looks for groups of equal lines among what has been updated."""
        blocks = [block for block in probe.anatomy.blocks if block.role in _ROLES]
        if not blocks:
            return self.not_applicable("the model has no table of positions and no feed-forward network")
        moved = updated(probe)
        if not moved:
            return self.not_applicable("no optimiser that remembers its gradients tells what has been trained")
        parameters = named(probe.model)
        equal = [item for block in blocks for item in _of_block(block, parameters, moved)]
        sizes = {block.name: sum(item["size"] for item in equal if item["block"] == block.name) for block in blocks}
        return self.reading(
            list(sizes.values()), coords={"block": tuple(sizes)}, step=probe.step, facts={"equal": equal}
        )


def _of_block(block: Block, parameters: dict[str, Tensor], moved: dict[str, Tensor]) -> Iterator[dict[str, Any]]:
    for piece in block.slices:
        if piece.dim is not None or piece.parameter not in moved or len(piece.shape) < 2:
            continue
        weight, reached = parameters[piece.parameter].cpu().squeeze(), moved[piece.parameter].squeeze()
        if weight.ndim != 2 or weight.dtype not in (torch.float32, torch.float64):
            continue
        # A table's last axis holds what a position is made of, except where axes of one follow it (a convolution's).
        for axis in (0,) if block.role is Role.POSITIONS and piece.shape[-1] > 1 else (0, 1):
            found = _largest_group(weight.movedim(axis, 0), reached.movedim(axis, 0), block.role is Role.POSITIONS)
            if found is not None:
                yield {
                    "block": block.name, "parameter": piece.parameter, "role": block.role.value, "axis": axis, **found
                }  # fmt: skip
                break


def _largest_group(lines: Tensor, reached: Tensor, with_zeros: bool) -> dict[str, Any] | None:
    """The largest group of equal lines that have been updated; None when there is no pair."""
    if lines.shape[1] < _SHORTEST or not bool(torch.isfinite(lines).all()):
        return None
    used = (reached.float().mean(1) >= 0.5).nonzero().flatten().tolist()
    groups: dict[bytes, list[int]] = defaultdict(list)
    for row in used:
        if with_zeros or bool(lines[row].any()):
            groups[(lines[row] + 0.0).contiguous().numpy().tobytes()].append(row)
    largest = max(groups.values(), key=len, default=[])
    if len(largest) < 2:
        return None
    zero = not bool(lines[largest[0]].any())
    return {"size": len(largest), "of": len(used), "first": largest[0], "last": largest[-1], "zero": zero}
