"""An attention that cannot prefer any key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.anatomy.blocks import Attention
from attnscope.diagnosis.rules import Evidence, Examination, Rule, Severity, Suspect
from attnscope.diagnosis.rules._evidence import all_initial, by_layer, first_source, peers_of, shown

_FLAT = 1e-3  # mean distance to uniform under which a head is an average and nothing else
_TINY = 0.1  # a factor this far below 1/d_head is no scale that somebody chose
_LEARNT = 0.05  # a head that is this far from uniform has learnt to look somewhere


@dataclass(frozen=True)
class UniformAttention(Rule):
    """An attention weighs all keys alike and so never learnt, or cannot learn, to look anywhere.

    **What it means** Every query averages all values. Either the scores do not depend on the keys at all
    (exactly
    uniform: they are multiplied by zero, or computed from a constant), or queries and keys still have their
    initial weights while the rest of the model is trained.

    **Why it matters** The layer is a mean over tokens, at the price of an attention.

    **Evidence required** Either the pattern is uniform to rounding although queries and keys are not zero; or
    it is uniform within 0.1 % while other attentions of the stack are not, or while the values of the same
    layer are trained and its queries and keys are not.

    **When it is a false alarm** Untrained models are nearly uniform, and heads may legitimately average:
    neither is reported.

    **How to confirm** Replace the pattern by 1/n: the output does not change.

    **What to try** Follow the scores from the query-key product to the softmax.
    """

    code: ClassVar[str] = "SFT208"
    needs: ClassVar[tuple[str, ...]] = ("distance_to_uniform", "initial_blocks", "head_contribution")
    alternatives: ClassVar[tuple[str, ...]] = (
        "queries or keys are zero",
        "all tokens are equal where they enter the attention",
        "the scale is far too small",
    )
    remedies: ClassVar[tuple[str, ...]] = (
        "check what happens to the scores between the product and the softmax",
        "check that queries and keys are in the optimiser and receive a gradient",
        "raise the learning rate or the initial scale of queries and keys",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per attention that is flat."""
        reading = examination.reading("distance_to_uniform")
        distances = by_layer(reading)
        exact = {
            (int(layer), int(head)) for layer, head in (reading.facts.get("exact", ()) if reading else ())
        }
        suspects = []
        for attention in examination.anatomy.attentions:
            heads = distances.get(attention.layer)
            if heads is None or heads.size == 0:
                continue
            flat = [head for head in range(attention.n_heads) if (attention.layer, head) in exact]
            if len(flat) == heads.size:
                suspects.append(_exactly(attention))
            elif flat:
                suspects += [_one_head(attention, head) for head in flat]
            elif float(heads.max()) < _FLAT:
                why = _never_learnt(examination, attention) or _multiplied_away(attention)
                learnt = [
                    other.layer
                    for other in peers_of(examination.anatomy, attention)
                    if other.layer in distances and float(distances[other.layer].max()) > _LEARNT
                ]
                if learnt:
                    why = f"L{learnt[0]}, built by the same code, has learnt to look somewhere"
                if why:
                    suspects.append(_nearly(attention, float(heads.max()), why))
        return suspects


def _never_learnt(examination: Examination, attention: Attention) -> str:
    """Whether values are trained while queries and keys are not."""
    blocks = attention.blocks
    sides = [blocks[role] for role in ("query", "key") if role in blocks]
    rest = [blocks[role] for role in ("value", "output") if role in blocks]
    reading = examination.reading("initial_blocks")
    if reading is None or not sides or not rest:
        return ""
    initial = set(reading.facts.get("initial", ()))
    if all_initial(examination, sides) and not initial & set(rest):
        return "its queries and keys still have their initial weights while its values are trained"
    return ""


def _multiplied_away(attention: Attention) -> str:
    """Whether the scores are multiplied by a number far below 1/d_head, the smallest scale in use."""
    if attention.scale is None or attention.expected_scale is None:
        return ""
    tiny = abs(attention.scale) < _TINY * attention.expected_scale**2
    return f"its scores are multiplied by {shown(attention.scale)}" if tiny else ""


def _exactly(attention: Attention) -> Suspect:
    layer = f"L{attention.layer}"
    return Suspect(
        kind="uniform_attention",
        place=attention.site("scores"),
        evidence=(
            Evidence(
                f"every pattern of {layer} is uniform to rounding", "distance_to_uniform", 0.0, None, True
            ),
        ),
        confidence=0.9,
        severity=Severity.ERROR,
        source=first_source(attention.scale_step, attention.score_step, attention.softmax),
        summary=f"{layer} gives every key exactly the same weight: its scores do not depend on the keys.",
        effects=(f"wrong_scale@{layer}.*", f"duplicated_heads@{layer}*", f"cut_gradient@{layer}.*"),
    )


def _one_head(attention: Attention, head: int) -> Suspect:
    return Suspect(
        kind="uniform_attention",
        place=f"L{attention.layer}H{head}.Q",
        evidence=(
            Evidence(
                f"every pattern of head {head} is uniform to rounding", "distance_to_uniform", 0.0, None, True
            ),
        ),
        confidence=0.8,
        severity=Severity.WARNING,
        source=first_source(attention.score_step),
        summary=f"Head {head} of L{attention.layer} gives every key exactly the same weight.",
    )


def _nearly(attention: Attention, distance: float, why: str) -> Suspect:
    layer = f"L{attention.layer}"
    return Suspect(
        kind="uniform_attention",
        place=attention.site("scores"),
        evidence=(
            Evidence(
                f"no head of {layer} is further than {shown(distance)} from uniform",
                "distance_to_uniform",
                distance,
                _FLAT,
            ),
            Evidence(why, "initial_blocks"),
        ),
        confidence=0.6,
        severity=Severity.WARNING,
        source=first_source(attention.scale_step, attention.score_step),
        summary=f"{layer} weighs all keys alike (within {shown(distance)}), and {why}.",
    )
