"""The values of one layer are made by another layer's projection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from attnscope.anatomy.blocks import Anatomy, Attention
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._parameters import module_of_block, role_block
from attnscope.faults._projections import applied, mixed, obstacle_of_projection, owner_of


@dataclass
class FromAnother:
    """A forward hook: the output that another module's weights make."""

    other: Any
    mix: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """The mixed output."""
        return self.mix(output, applied(self.other, args[0], self.other.weight, self.other.bias))


@dataclass(frozen=True)
class ValuesOfAnotherLayer(Fault):
    """Uses the next layer's W_V (the previous one's in the last layer): an index that is off by one.

    **Injects**: (1 - strength) own values + strength those that the other layer's projection makes.

    **Strength**: the share of the others; at 1 the layer's own projection is not used.

    **Visible as**: a value projection without gradient, and one that serves two layers.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("shared_by_mistake", "unused_parameter", "cut_gradient")
    visibility: ClassVar[str] = "I"
    ids: ClassVar[tuple[str, ...]] = ("D4",)

    def _other(self, anatomy: Anatomy) -> Attention:
        here = attention_of(anatomy, self.layer).layer
        return anatomy.attentions[here + 1 if here + 1 < len(anatomy.attentions) else here - 1]

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs two layers with value projections of their own, alike in shape."""
        if len(anatomy.attentions) < 2:
            return "the model has one attention only"
        names = [
            role_block(each, "value") for each in (attention_of(anatomy, self.layer), self._other(anatomy))
        ]
        for name in names:
            reason = obstacle_of_projection(case, anatomy, name, "value projection")
            if reason:
                return reason
        if names[0] == names[1]:
            return "both layers share one value projection"
        one, two = (anatomy.block(name).slices[0].shape for name in names)
        return "" if one == two else "the value projections of the two layers differ in shape"

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Hooks the layer's own projection."""
        mine, other = (
            owner_of(case.model, anatomy, role_block(each, "value"))
            for each in (attention_of(anatomy, self.layer), self._other(anatomy))
        )

        def mix(own: Tensor, others: Tensor) -> Tensor:
            return mixed(own, others, self.strength)

        if mine is not None:
            mine.register_forward_hook(FromAnother(other, mix))

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The layer's own values, then those that are used in their place."""
        mine, other = attention_of(anatomy, self.layer), self._other(anatomy)
        own = role_block(mine, "value")
        return (own, f"{mine.name}.V", module_of_block(anatomy, own), role_block(other, "value"))
