"""One layer of an encoder does not see what follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.anatomy.blocks import Attention, Kind
from attnscope.diagnosis.rules import Evidence, Examination, Rule, Severity, Suspect
from attnscope.diagnosis.rules._evidence import by_layer, first_source, peers_of, shown

_NEEDED = 2  # other layers that see the future
_SEEN = 1e-3  # of the weight of every head of theirs


@dataclass(frozen=True)
class FutureHidden(Rule):
    """One layer gives exactly no weight to later positions, where every other layer of its stack does.

    **What it means** A causal mask (or `is_causal=True`) reached one layer of a model that reads in both
    directions.

    **Why it matters** What that layer finds about a token rests on the tokens before it only, and a first token
    learns nothing there.

    **Evidence required** In a self-attention the weight on later positions is exactly zero in every head and row,
    and in two other layers of the same class at least it is not, in any head; none of the others hides the future.

    **When it is a false alarm** Stacks that alternate directions on purpose hide it in several layers, and are not
    reported.

    **How to confirm** Change the last token: the states of this layer at the first position must change.

    **What to try** Pass this layer the mask that the others get.
    """

    code: ClassVar[str] = "MSK120"
    severity: ClassVar[Severity] = Severity.WARNING
    needs: ClassVar[tuple[str, ...]] = ("future_mass",)
    alternatives: ClassVar[tuple[str, ...]] = ("one layer that reads in one direction, on purpose",)
    remedies: ClassVar[tuple[str, ...]] = (
        "pass this layer the mask that the other layers get",
        "look for is_causal=True, tril or a mask made for a decoder",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per layer that alone hides the future."""
        masses = by_layer(examination.reading("future_mass"))
        suspects = []
        for attention in examination.anatomy.attentions:
            own = masses.get(attention.layer)
            others = [masses.get(other.layer) for other in peers_of(examination.anatomy, attention)]
            if attention.kind is not Kind.SELF or own is None or len(others) < _NEEDED or float(own.max()) > 0:
                continue
            least = min(0.0 if other is None else float(other.min()) for other in others)
            if len(own) == attention.n_heads and least > _SEEN:
                suspects.append(_suspect(attention, least, len(others)))
        return suspects


def _suspect(attention: Attention, least: float, n_others: int) -> Suspect:
    layer = attention.name
    mask = attention.mask[-1] if attention.mask else None
    return Suspect(
        kind="future_hidden",
        place=attention.site("mask"),
        evidence=(
            Evidence(f"no head of {layer} gives any weight to a later position", "future_mass", 0.0, least, True),
            Evidence(f"every head of the {n_others} other layers gives {shown(least)} or more", "future_mass", least),
        ),
        confidence=0.9,
        source=first_source(mask, attention.softmax, attention.score_step),
        summary=f"{layer} does not see later positions, and the {n_others} other layers of its stack do.",
    )
