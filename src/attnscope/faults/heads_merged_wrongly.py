"""The heads of one layer are merged without the transpose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._parameters import role_block
from attnscope.faults._projections import CONVOLUTIONS, InputChanged, mixed, obstacle_of_projection, owner_of


@dataclass(frozen=True)
class HeadsMergedWrongly(Fault):
    """Views `[batch, head, position, d_head]` as `[batch, position, width]` without exchanging the axes before.

    **Injects**: (1 - strength) merged + strength wrongly merged, as input of the output projection.

    **Strength**: the share of what is merged wrongly.

    **Visible as**: a position that is found elsewhere after the merge.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("heads_mixed",)
    visibility: ClassVar[str] = "I"
    ids: ClassVar[tuple[str, ...]] = ("D3",)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs several heads and an output projection of their joint width."""
        attention = attention_of(anatomy, self.layer)
        if attention.n_heads < 2 or attention.n_queries < 2:
            return "this attention has one head or one query only, so there is nothing to mix"
        block = role_block(attention, "output")
        reason = obstacle_of_projection(case, anatomy, block, "output projection")
        if reason:
            return reason
        width = anatomy.block(block).slices[0].shape[1]
        return "" if width == attention.n_heads * (attention.d_value or 0) else "the heads are not merged by a view"

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Hooks the output projection."""
        attention = attention_of(anatomy, self.layer)
        owner = owner_of(case.model, anatomy, role_block(attention, "output"))
        wrong = _merged_channels if isinstance(owner, CONVOLUTIONS) else _merged

        def change(merged: Tensor) -> Tensor:
            return mixed(merged, wrong(merged, attention.n_heads), self.strength)

        if isinstance(owner, nn.Module):
            owner.register_forward_pre_hook(InputChanged(change))

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The heads, and what takes them in."""
        attention = attention_of(anatomy, self.layer)
        return (f"{attention.name}.heads", role_block(attention, "output"))


def _merged(merged: Tensor, n_heads: int) -> Tensor:
    """`[..., position, width]`, made from the heads without the transpose."""
    heads = merged.reshape(*merged.shape[:-1], n_heads, -1).transpose(-3, -2)
    return heads.reshape(merged.shape)


def _merged_channels(merged: Tensor, n_heads: int) -> Tensor:
    """The same for `[batch, width, place, ...]`."""
    heads = merged.reshape(len(merged), n_heads, merged.shape[1] // n_heads, -1).transpose(2, 3)
    return heads.reshape(merged.shape)
