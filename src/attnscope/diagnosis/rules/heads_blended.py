"""Heads of one layer use one another's attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.anatomy.blocks import Attention
from attnscope.diagnosis.rules import Evidence, Examination, Rule, Severity, Suspect
from attnscope.diagnosis.rules._evidence import by_layer, first_source, peers_of, shown

_MIXED = 1e-3  # of a head's weights; the fit leaves less


@dataclass(frozen=True)
class HeadsBlended(Rule):
    """In one layer the heads weigh their values with one another's softmax, and in no other layer do they.

    **What it means** Behind the softmax each head's pattern is a weighted sum of the patterns of several heads,
    or simply that of another head: an average over the wrong axis, a broadcast of one head to all, an index that
    lost the head's axis.

    **Why it matters** The layer has fewer heads than it pays for; queries and keys of a head whose pattern nobody
    uses learn nothing.

    **Evidence required** Constants that make the pattern of every head, to rounding, from the softmaxes of all
    heads of the layer, with a share of other heads; and none of that in the other layers of the stack.

    **When it is a false alarm** Talking heads mix on purpose; they do so in every layer, and are not reported.

    **How to confirm** Compare what the softmax returns with what is multiplied with the values, head by head.

    **What to try** Weigh each head's values with its own softmax.
    """

    code: ClassVar[str] = "PRJ321"
    severity: ClassVar[Severity] = Severity.WARNING
    needs: ClassVar[tuple[str, ...]] = ("head_blend",)
    alternatives: ClassVar[tuple[str, ...]] = ("talking heads in one layer only, on purpose",)
    remedies: ClassVar[tuple[str, ...]] = (
        "weigh each head's values with its own softmax",
        "look for a mean, an expand or an index over the heads' axis behind the softmax",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per layer that mixes, when its siblings do not."""
        shares = by_layer(examination.reading("head_blend"))
        suspects = []
        for attention in examination.anatomy.attentions:
            own = shares.get(attention.layer)
            peers = [other.layer for other in peers_of(examination.anatomy, attention)]
            pure = bool(peers) and all(
                layer in shares and float(shares[layer].max()) == 0.0 for layer in peers
            )
            if own is not None and pure and len(own) == attention.n_heads and float(own.max()) > _MIXED:
                suspects.append(_suspect(attention, [float(share) for share in own], len(peers)))
        return suspects


def _suspect(attention: Attention, shares: list[float], n_peers: int) -> Suspect:
    layer = attention.name
    mixed = [head for head, share in enumerate(shares) if share > _MIXED]
    return Suspect(
        kind="heads_blended",
        place=attention.site("heads"),
        evidence=(
            Evidence(
                f"heads {', '.join(map(str, mixed[:8]))} of {layer} weigh with the softmax of other heads, by a "
                f"share of up to {shown(max(shares))}",
                "head_blend",
                max(shares),
                0.0,
                True,
            ),
            Evidence(f"{n_peers} other layers of the stack mix nothing", "head_blend", 0.0),
        ),
        confidence=0.9,
        source=first_source(attention.value_step, attention.softmax),
        summary=f"Heads of {layer} are mixed behind the softmax: up to {shown(max(shares))} of a head's weights come "
        "from another head.",
        effects=(f"duplicated_heads@{layer}*", f"cut_gradient@{layer}*", f"altered_gradient@{layer}*"),
    )
