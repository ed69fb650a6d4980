"""All tokens become the same vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.diagnosis.rules import Evidence, Examination, Rule, Suspect
from attnscope.diagnosis.rules._collapse import AFTER_COLLAPSE, collapse_bound, first_collapsed
from attnscope.diagnosis.rules._evidence import by_layer, first_source, shown


@dataclass(frozen=True)
class RankCollapse(Rule):
    """The tokens of a text have become (nearly) the same vector where they enter an attention.

    **What it means** The states differ from their mean by less than in any healthy model. Queries and keys
    are then the same for all tokens, whatever the weights.

    **Why it matters** Attention over equal tokens is an average of equal things, and the gradient of queries
    and keys vanishes.

    **Evidence required** The spread of the tokens around their mean, relative to their size, is a tenth of
    the lowest that was measured on healthy models, or rounding.

    **When it is a false alarm** Texts of one repeated token are equal before they enter.

    **How to confirm** Print the cosine between two tokens, layer by layer.

    **What to try** Residual connections, smaller initial attention, normalisation before the attention.
    """

    code: ClassVar[str] = "CRV604"
    needs: ClassVar[tuple[str, ...]] = ("token_spread",)
    alternatives: ClassVar[tuple[str, ...]] = (
        "the tokens of the batch are equal",
        "residuals are missing",
        "the embedding is dead",
    )
    remedies: ClassVar[tuple[str, ...]] = (
        "check the residual connections of the layers before",
        "check the embedding, and that the inputs differ",
        "scale attention outputs down at initialisation",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect, at the first attention whose tokens are alike; the later ones follow from it."""
        collapsed = first_collapsed(examination)
        if collapsed is None:
            return []
        layer, spread = collapsed
        attention = next(item for item in examination.anatomy.attentions if item.layer == layer)
        spreads = by_layer(examination.reading("token_spread"))
        before = [other for other in sorted(spreads) if other < layer]
        was = f" (at L{before[-1]} it was {shown(float(spreads[before[-1]].min()))})" if before else ""
        return [
            Suspect(
                kind="rank_collapse",
                place=attention.site("residual"),
                evidence=(
                    Evidence(
                        f"the tokens differ from their mean by {shown(spread)} of their size{was}",
                        "token_spread",
                        spread,
                        collapse_bound(),
                    ),
                ),
                confidence=0.85,
                source=first_source(attention.score_step),
                summary=f"The tokens that enter L{layer} are nearly the same vector: they differ by {shown(spread)} "
                "of their size.",
                effects=AFTER_COLLAPSE,
            )
        ]
