"""Decoding with a cache departs from a fresh run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.anatomy.blocks import Anatomy, Attention, Role, Source
from attnscope.diagnosis.rules import Evidence, Examination, Rule, Suspect
from attnscope.diagnosis.rules._evidence import attention_of, first_source, shown


@dataclass(frozen=True)
class WrongCachePosition(Rule):
    """Decoding token by token with the key/value cache gives other outputs than one run over the text.

    **What it means** New keys are stored in the wrong place or get the wrong position, old ones are stale or
    cut off, or the mask of a single query does not line up with the keys.

    **Why it matters** Training and evaluation look right, and generated text gets worse the longer it is.

    **Evidence required** The outputs of a cached decode and of a fresh run on the same tokens differ beyond
    rounding. The place is the first attention whose own output departs.

    **When it is a false alarm** Caches that are approximate on purpose (quantised, sliding beyond their
    window).

    **How to confirm** Generate with `use_cache=False` and compare.

    **What to try** Positions that start at the length of the cache, in tables and in rotations.
    """

    code: ClassVar[str] = "POS405"
    needs: ClassVar[tuple[str, ...]] = ("cached_decode",)
    alternatives: ClassVar[tuple[str, ...]] = (
        "the cache is quantised or limited on purpose",
        "the model is not causal, so that a fresh run sees more",
    )
    remedies: ClassVar[tuple[str, ...]] = (
        "start the positions of new tokens at the length of the cache",
        "align the mask of a single query with the end of the keys",
        "clear the cache between texts",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """At most one suspect."""
        reading = examination.reading("cached_decode")
        if reading is None or not reading.facts.get("violated"):
            return []
        first = reading.facts.get("first_position")
        largest = float(reading.facts.get("largest", 0.0))
        departs = reading.facts.get("first_layer")
        attention = attention_of(examination.anatomy, departs) if departs is not None else None
        attention = attention or next((item for item in examination.anatomy.attentions if item.causal_source), None)
        attention = attention or next(iter(examination.anatomy.attentions), None)
        return [
            Suspect(
                kind="wrong_cache_position",
                place=attention.site("cache") if attention else "model",
                evidence=(
                    Evidence(
                        f"from position {first} on, cached and fresh outputs differ by up to {shown(largest)}",
                        "cached_decode",
                        largest,
                        float(reading.facts.get("tolerance", 0.0)),
                        True,
                    ),
                ),
                confidence=0.95,
                source=_where(examination.anatomy, attention, departs),
                summary=f"Decoding with the cache departs from a fresh run by {shown(largest)}, "
                f"from position {first} on{f'; it begins in L{departs}' if departs is not None else ''}.",
                effects=("positions",),
            )
        ]


def _where(anatomy: Anatomy, attention: Attention | None, departs: int | None) -> Source | None:
    """The line that looks up positions, else (and in a layer after others that are right) the one of the scores."""
    if departs and attention is not None:
        return first_source(attention.score_step)
    table = next(
        (block.source for block in anatomy.blocks if block.role is Role.POSITIONS and block.source), None
    )
    return table or (first_source(attention.score_step) if attention else None)
