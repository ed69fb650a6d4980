"""One layer attends to padding: its mask lets the padded keys through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._scores import Scores, obstacle_of, retell


@dataclass(frozen=True)
class PaddingAttended(Fault):
    """Takes the padding out of the mask of one layer; what the mask forbids of the future stays forbidden.

    **Injects**: a mask without the keys that are forbidden to every query of an example.

    **Strength**: 1 gives padded keys their scores; less takes -10 (1 - strength) / strength off them, as
    a mask filled with too small a number does.

    **Visible as**: mass on padding, and an output that moves when a padded token does.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("padding_attended",)
    visibility: ClassVar[str] = "I"
    ids: ClassVar[tuple[str, ...]] = ("MZM", "H1", "H2", "V7")
    severities: ClassVar[tuple[float, ...]] = (0.7, 0.9, 1.0)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a mask."""
        attention = attention_of(anatomy, self.layer)
        return obstacle_of(case, anatomy, attention.layer, forbidden="padding")

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Retells the pattern of the layer."""
        attention = attention_of(anatomy, self.layer)

        penalty = 10.0 * (1 - self.strength) / self.strength

        def tell(scores: Scores) -> Tensor:
            padded = scores.padding_mask()
            if padded is None or scores.forbidden is None:
                return scores.normalise(scores.masked())
            let_through = scores.bare - penalty * padded
            return scores.normalise(scores.masked(let_through, scores.forbidden & ~padded))

        retell(case.model, anatomy, (attention.layer,), tell)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The mask."""
        name = attention_of(anatomy, self.layer).name
        return (f"{name}.mask",)
