"""The blocks whose curvature is asked for: whole projections, single heads, or whole layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from torch import nn

from attnscope.anatomy.blocks import Anatomy, Block, Role
from attnscope.errors import CaseError

PROJECTION, HEAD, LAYER = "projection", "head", "layer"
LEVELS = (PROJECTION, HEAD, LAYER)


def differentiable_blocks(model: nn.Module, blocks: Sequence[Block]) -> tuple[Block, ...]:
    """The blocks that are trained (all, when none is) and hold floating-point numbers."""
    floating = {name for name, parameter in model.named_parameters() if parameter.is_floating_point()}
    usable = [
        block for block in blocks
        if block.numel and all(piece.parameter in floating for piece in block.slices)
    ]
    return tuple(block for block in usable if block.trainable) or tuple(usable)


def blocks_at(
    anatomy: Anatomy, model: nn.Module, level: str = PROJECTION, only: Sequence[str] = ()
) -> tuple[Block, ...]:
    """The blocks of a model at one level, in the order of the forward pass.

    Args:
        anatomy: of the model.
        model: whose parameters they are.
        level: `projection` (one block per projection and per other module), `head` (each projection cut by
            head; parameters that no single head owns are left out), or `layer` (everything that stands in a
            layer is one block).
        only: patterns of block names (`L*.Q`); none keeps all.

    Raises:
        ValueError: an unknown level.
        CaseError: no block is left.
    """
    if level not in LEVELS:
        raise ValueError(f"level must be one of {', '.join(LEVELS)}, found {level!r}")
    blocks = differentiable_blocks(model, anatomy.blocks)
    if level == HEAD:
        blocks = _by_head(anatomy, blocks)
    elif level == LAYER:
        blocks = _by_layer(blocks)
    kept = tuple(
        block for block in blocks if not only or any(fnmatchcase(block.name, pattern) for pattern in only)
    )
    if not kept:
        names = ", ".join(block.name for block in blocks[:8])
        raise CaseError(f"no block at level {level} is named {' or '.join(only) or 'anything'}; there are {names}")
    return kept


def _by_head(anatomy: Anatomy, blocks: Sequence[Block]) -> tuple[Block, ...]:
    """Each projection replaced by its heads; `L0H2.Q` stands where `L0.Q` stood."""
    heads: dict[str, list[Block]] = {}
    cut = anatomy.head_blocks()
    for block in blocks:
        parameters = {part.parameter for part in block.slices}
        found = [
            head for head in cut
            if head.role == block.role and head.layer == block.layer
            and all(part.parameter in parameters for part in head.slices)
        ]
        heads[block.name] = found if len(found) > 1 else [block]
    return tuple(head for found in heads.values() for head in found)


def _by_layer(blocks: Sequence[Block]) -> tuple[Block, ...]:
    merged: dict[str, Block] = {}
    for block in blocks:
        if block.layer is None:
            merged[block.name] = block
            continue
        name = f"L{block.layer}"
        whole = merged.get(name)
        if whole is None:
            merged[name] = replace(block, name=name, role=Role.ENCODER, head=None)
        else:
            merged[name] = replace(whole, slices=(*whole.slices, *block.slices))
    return tuple(merged.values())
