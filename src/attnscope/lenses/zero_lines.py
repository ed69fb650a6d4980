"""Rows, columns and slices of weights that are exactly zero although the optimiser has moved them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attnscope.anatomy.blocks import ATTENTION_ROLES, Block, Role
from attnscope.lenses import Lens
from attnscope.lenses._batch import tensors
from attnscope.lenses._parameters import named
from attnscope.lenses._updated import updated
from attnscope.probe import Probe
from attnscope.readings import Reading

_SHORTEST = 4  # numbers that a line must hold: fewer may be zero by chance in a pruned weight
_EXPLAINED = 0.9  # share of all zeros that must lie in whole lines; fewer is scattered pruning
_ELSEWHERE = (*ATTENTION_ROLES, Role.POSITIONS, Role.NORM)  # other readings look at these


@dataclass(frozen=True)
class ZeroLines(Lens):
    """How many rows, columns or slices of each block are exactly zero although training has moved them.

    **Measures** per block the number of lines of its weights (rows, columns, slices of a kernel) whose every number is
    exactly zero while the optimiser's memory of gradients says that they have been updated (unit lines). Projections of
    attentions, positions and normalisations are left to other readings.

    **Reading it** 0. A number that a step has moved is zero again only if something sets it to zero: code that
    overwrites it, or a mask. Rows of tokens that never occurred, a padding row, and a weight before training have
    no gradient in the memory and do not count; scattered zeros (pruning of single weights) do not either.

    **Shapes** [block]. Facts: `lines`: list of {block, parameter, axes, indices, count, of, whole, updated}; `updated`
    is false where no optimiser was given and rows of tokens that occur in the batches are zero; `steps_known`:
    whether any parameter has a memory.

    **Cost** one pass over the parameters.

    **Reference** none needed: an identity.
    """

    unit: ClassVar[str] = "lines"
    dims: ClassVar[tuple[str, ...]] = ("block",)
    needs: ClassVar[tuple[str, ...]] = ("weights", "optimizer")

    def measure(self, probe: Probe) -> Reading:
        """Looks for whole lines of zeros among what has been updated."""
        blocks = probe.anatomy.blocks
        if not blocks:
            return self.not_applicable("the model has no parameters")
        parameters, moved = named(probe.model), updated(probe)
        lines = [line for block in blocks for line in _of_block(block, parameters, moved)]
        if probe.optimizer is None:
            lines += _of_tokens(probe, parameters)
        counts = {block.name: sum(line["count"] for line in lines if line["block"] == block.name) for block in blocks}
        return self.reading(
            list(counts.values()), coords={"block": tuple(counts)}, step=probe.step,
            facts={"lines": lines, "steps_known": bool(moved)},
        )


def _of_block(block: Block, parameters: dict[str, Tensor], moved: dict[str, Tensor]) -> Iterator[dict[str, Any]]:
    if block.role in _ELSEWHERE:
        return
    for piece in block.slices:
        weight = parameters[piece.parameter].cpu()
        if piece.dim is not None or weight.ndim < 2 or piece.parameter not in moved:
            continue
        zero = weight == 0
        if not bool(zero.any()):
            continue
        line = _lines(zero, moved[piece.parameter])
        if line is not None and not _only_padding(block, line):
            yield {"block": block.name, "parameter": piece.parameter, "updated": True, **line}


def _lines(zero: Tensor, moved: Tensor) -> dict[str, Any] | None:
    """The lines of zeros that have been updated: along the first axis where there are any."""
    pairs = [pair for pair in combinations(range(zero.ndim), 2) if zero.ndim > 2 and pair[0] == 0]
    for axes in [*((axis,) for axis in range(zero.ndim)), *pairs]:
        others = [axis for axis in range(zero.ndim) if axis not in axes]
        length = math.prod(zero.shape[axis] for axis in others)
        if length < _SHORTEST or not others:
            continue
        dead = zero.all(dim=others, keepdim=True)
        reached = moved.float().mean(dim=others, keepdim=True) >= 0.5
        stuck = (dead & reached).squeeze()
        # Lines that nobody has moved (tokens never seen) are as they were made, and say nothing about pruning.
        unmoved = int((zero & ~moved).sum())
        if bool(stuck.any()) and int(stuck.sum()) * length >= _EXPLAINED * (int(zero.sum()) - unmoved):
            where = stuck.reshape(-1).nonzero().flatten().tolist()
            return {
                "axes": list(axes), "indices": where[:8], "count": len(where), "of": stuck.numel(),
                "whole": bool(zero.all()),
            }  # fmt: skip
    return None


def _only_padding(block: Block, line: dict[str, Any]) -> bool:
    """Whether it is the first row of a table alone: where a text is padded, and that row is often kept at zero."""
    return block.role is Role.EMBEDDING and line["axes"] == [0] and line["indices"] == [0] and line["count"] == 1


def _of_tokens(probe: Probe, parameters: dict[str, Tensor]) -> list[dict[str, Any]]:
    """Without an optimiser: zero rows of a table of tokens, where those tokens occur and are no padding."""
    tables = [block for block in probe.anatomy.blocks if block.role is Role.EMBEDDING and len(block.slices) == 1]
    paths = [item.path for item in probe.anatomy.inputs if item.use == "tokens"]
    if len(tables) != 1 or len(paths) != 1 or len(tables[0].slices[0].shape) != 2:
        return []
    name = tables[0].slices[0].parameter
    table = parameters[name].cpu()
    ids = [held[paths[0]].flatten().cpu() for batch in probe.batches if paths[0] in (held := tensors(batch))]
    seen = torch.cat(ids).unique() if ids else torch.zeros(0)  # type: ignore[no-untyped-call]
    if seen.is_floating_point() or not seen.numel() or int(seen.min()) < 0 or int(seen.max()) >= len(table):
        return []
    padding = {0, probe.expects.padding_token, _padding_row(probe.model, name)}
    zero = [int(row) for row in seen if not bool(table[row].any()) and int(row) not in padding]
    if not zero or len(zero) == len(seen):
        return []
    return [{
        "block": tables[0].name, "parameter": name, "updated": False, "axes": [0], "indices": zero[:8],
        "count": len(zero), "of": len(table), "whole": False,
    }]  # fmt: skip


def _padding_row(model: nn.Module, parameter: str) -> int | None:
    module = model.get_submodule(parameter.rpartition(".")[0])
    row = getattr(module, "padding_idx", None)
    return row if isinstance(row, int) else None
