"""Two recurrent encoders share their weights by mistake."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault
from attnscope.faults._recurrent import recurrent_blocks, recurrent_modules


@dataclass(frozen=True)
class TiedEncoders(Fault):
    """Puts the first recurrent module's parameters where the second's were, wherever their shapes agree.

    **Injects**: one parameter, used at two levels. Input weights of levels of different width cannot be shared
    and stay apart; with equal widths everything is shared. The optimiser given before keeps the orphans.

    **Strength**: anything above 0 ties them.

    **Visible as**: one name instead of two; parameters that serve two levels at once.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("shared_by_mistake",)
    visibility: ClassVar[str] = "I"
    ids: ClassVar[tuple[str, ...]] = ("H10",)
    layered: ClassVar[bool] = False

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs two recurrent modules with parameters of equal shape."""
        found = recurrent_modules(case.model)
        if len(found) < 2:
            return f"the model has {len(found)} recurrent modules, and it takes two to share"
        return "" if _alike(found[0][1], found[1][1]) else "the two recurrent modules have no shape in common"

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Ties them."""
        (_, one), (_, two) = recurrent_modules(case.model)[:2]
        for name in _alike(one, two):
            setattr(two, name, getattr(one, name))

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """Both modules."""
        return tuple(recurrent_blocks(anatomy)[:2])


def _alike(one: nn.Module, two: nn.Module) -> list[str]:
    """Names of the parameters that both have, in equal shapes."""
    others = {name: each.shape for name, each in two.named_parameters(recurse=False)}
    return [name for name, each in one.named_parameters(recurse=False) if others.get(name) == each.shape]
