"""The softmax of one layer runs over the queries instead of the keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._projections import mixed
from attnscope.faults._scores import Scores, obstacle_of, retell


@dataclass(frozen=True)
class SoftmaxWrongAxis(Fault):
    """Normalises each key over the queries.

    **Injects**: (1 - strength) softmax over keys + strength softmax over queries.

    **Strength**: the share of the wrong one.

    **Visible as**: columns that sum to one instead of rows.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("softmax_wrong_axis",)
    visibility: ClassVar[str] = "I"
    ids: ClassVar[tuple[str, ...]] = ("H4",)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs the softmax's line."""
        attention = attention_of(anatomy, self.layer)
        return obstacle_of(case, anatomy, attention.layer)

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Retells the pattern of the layer."""
        attention = attention_of(anatomy, self.layer)

        def tell(scores: Scores) -> Tensor:
            right = scores.normalise(scores.masked())
            wrong = scores.normalise(scores.masked(), dim=scores.dim - 1)
            if scores.forbidden is not None:
                wrong = wrong.masked_fill(scores.forbidden, 0.0)
            return mixed(right, wrong, self.strength)

        retell(case.model, anatomy, (attention.layer,), tell)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The softmax."""
        name = attention_of(anatomy, self.layer).name
        return (f"{name}.softmax",)
