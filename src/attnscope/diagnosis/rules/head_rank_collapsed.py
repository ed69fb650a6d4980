"""A head whose query-key product has lost its rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from attnscope.anatomy.blocks import Attention
from attnscope.diagnosis.rules import Evidence, Examination, Rule, Severity, Suspect
from attnscope.diagnosis.rules._evidence import first_source
from attnscope.readings import Reading

_ROUNDING = 1e-5  # of the largest singular value: what copies leave in float64 is 1e-15, training far more
_LEAST = 4  # directions that a head must have for a loss of rank to mean anything


@dataclass(frozen=True)
class HeadRankCollapsed(Rule):
    """A head's queries and keys use at most half of the directions they have: the others are zero to rounding.

    **What it means** W_Q^T W_K of the head has fewer directions than the head is wide, exactly. Training makes
    products of low effective rank, but it does not take directions to zero: those that it does not use keep what
    they began with. Rows that are equal or zero do: a constant initialisation, a broadcast when weights were
    loaded, units that were cut off.

    **Why it matters** Equal rows get equal gradients, so the head never uses its other directions.

    **Evidence required** At most half of the singular values of W_Q^T W_K are above 1e-5 of the largest, in a head
    of at least four directions, and some are.

    **When it is a false alarm** Heads that were compressed or pruned on purpose; projections of low rank by
    construction.

    **How to confirm** Print the rows of the head's W_Q and W_K: some are equal, multiples of each other, or zero.

    **What to try** Initialise queries and keys at random; check shapes where weights are copied or loaded.
    """

    code: ClassVar[str] = "PRJ309"
    severity: ClassVar[Severity] = Severity.WARNING
    needs: ClassVar[tuple[str, ...]] = ("query_key_spectrum",)
    alternatives: ClassVar[tuple[str, ...]] = (
        "the head was pruned or compressed on purpose",
        "its projections are of low rank by construction",
    )
    remedies: ClassVar[tuple[str, ...]] = (
        "initialise queries and keys with random numbers, not with constants",
        "check that loading or copying does not broadcast one row over the head",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per attention that has such heads."""
        reading = examination.reading("query_key_spectrum")
        if reading is None:
            return []
        suspects = []
        for index, attention in enumerate(examination.anatomy.attentions):
            collapsed = _collapsed(reading, index)
            if collapsed:
                suspects.append(_suspect(attention, collapsed, reading.values[index]))
        return suspects


def _collapsed(reading: Reading, index: int) -> dict[int, tuple[int, int]]:
    """Head -> (directions in use, directions it has), for heads that use half of them or fewer."""
    found = {}
    for head, values in enumerate(reading.values[index]):
        held = values[~np.isnan(values)]
        if len(held) < _LEAST or not held[0] > 0:
            continue
        used = int((held > _ROUNDING * held[0]).sum())
        if used <= len(held) // 2:
            found[head] = (used, len(held))
    return found


def _suspect(attention: Attention, collapsed: dict[int, tuple[int, int]], values: object) -> Suspect:
    layer, first = attention.layer, next(iter(collapsed))
    used, has = collapsed[first]
    everywhere = len(collapsed) == attention.n_heads
    place = attention.blocks.get("query", f"L{layer}.Q") if everywhere else f"L{layer}H{first}.Q"
    heads = "every head" if everywhere else ("head " if len(collapsed) == 1 else "heads ") + ", ".join(
        map(str, collapsed)
    )
    return Suspect(
        kind="head_rank_collapsed",
        place=place,
        evidence=(
            Evidence(
                f"W_Q^T W_K of L{layer}H{first} has {used} of {has} directions; the others are zero to rounding",
                "query_key_spectrum",
                float(used),
                has / 2,
                True,
            ),
        ),
        confidence=0.8,
        source=first_source(attention.score_step),
        summary=f"Queries and keys of {heads} of L{layer} use {used} of {has} directions.",
        effects=(f"L{layer}*.K" if everywhere else f"L{layer}H{first}.K", f"duplicated_heads@L{layer}*"),
    )
