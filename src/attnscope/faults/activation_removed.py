"""The activation inside an additive attention's scoring network is missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attnscope.anatomy.blocks import Anatomy, Form
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._projections import mixed
from attnscope.faults._scores import Scores, obstacle_of, retell, seen_scores

SCORED = (Form.ADDITIVE, Form.POOLED)


@dataclass(frozen=True)
class ActivationRemoved(Fault):
    """Takes the tanh out of tanh(W h + b) . u, so the scores are linear in h and have no bound.

    **Injects**: (1 - strength) f(x) + strength x, for the activation f that makes the keys.

    **Strength**: the share of what passes by the activation.

    **Visible as**: scores that grow beyond the norm of u, sharper patterns, more curvature of W.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("scores_linear",)
    visibility: ClassVar[str] = "C"
    ids: ClassVar[tuple[str, ...]] = ("H7",)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a scoring network with an activation."""
        attention = attention_of(anatomy, self.layer)
        if attention.form not in SCORED:
            return "no activation stands between the keys of this attention and its scores"
        reason = obstacle_of(case, anatomy, attention.layer)
        if reason:
            return reason
        scores = seen_scores(case, anatomy, attention.layer)
        found = scores is not None and scores.activated is not None
        return "" if found else "no activation was seen among the calls that make the keys"

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Retells the pattern of the layer."""

        def tell(scores: Scores) -> Tensor:
            if scores.activated is None:
                return scores.normalise(scores.masked())
            inner, outer, remade = scores.activated
            key = remade(mixed(outer, inner, self.strength))
            return scores.normalise(scores.masked(scores.remake(scores.query, key)))

        retell(case.model, anatomy, (attention_of(anatomy, self.layer).layer,), tell)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The projection inside the activation, and the scores."""
        attention = attention_of(anatomy, self.layer)
        blocks = [attention.blocks[role] for role in ("key",) if attention.blocks.get(role)]
        return (*blocks, f"{attention.name}.K", f"{attention.name}.scores")
