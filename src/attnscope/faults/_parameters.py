"""From blocks of an anatomy to the numbers in the model, to be changed in place."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from attnscope.anatomy.blocks import Anatomy, Attention, ParameterSlice


def views(model: nn.Module, slices: Iterable[ParameterSlice]) -> list[Tensor]:
    """Writable views of the slices, without gradient; a slice of several ranges gives several views."""
    named = dict(model.named_parameters())
    found = []
    for piece in slices:
        whole = named[piece.parameter].detach()
        if piece.dim is None:
            found.append(whole)
        else:
            found += [whole.narrow(piece.dim, start, stop - start) for start, stop in piece.ranges]
    return found


def block_views(model: nn.Module, anatomy: Anatomy, name: str) -> list[Tensor]:
    """Writable views of a block, weights first."""
    return views(model, anatomy.block(name).slices)


def block_parameters(model: nn.Module, anatomy: Anatomy, name: str) -> list[nn.Parameter]:
    """The whole parameters that a block lies in (a fused projection holds more than the block)."""
    named = dict(model.named_parameters())
    names = dict.fromkeys(piece.parameter for piece in anatomy.block(name).slices)
    return [named[each] for each in names]


def blocks_of_parameters(anatomy: Anatomy, name: str) -> tuple[str, ...]:
    """Every block that shares a parameter with this one, itself first."""
    mine = {piece.parameter for piece in anatomy.block(name).slices}
    others = [
        block.name for block in anatomy.blocks
        if block.name != name and any(piece.parameter in mine for piece in block.slices)
    ]
    return (name, *others)


def module_of_block(anatomy: Anatomy, name: str) -> str:
    """The module path of a block's first parameter: its name where the trace no longer knows its role."""
    return anatomy.block(name).slices[0].parameter.rpartition(".")[0]


def role_block(attention: Attention, role: str) -> str:
    """The block of a role in an attention, or an empty string when it has none."""
    return dict(attention.blocks).get(role, "")


def zero_share(parts: Iterable[Tensor], share: float) -> None:
    """Zeroes the first rows of each tensor: that share of them."""
    for part in parts:
        part[: round(share * len(part))].zero_()
