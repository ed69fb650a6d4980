"""Heads are split from, or merged with, positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.diagnosis.rules import Evidence, Examination, Rule, Suspect
from attnscope.diagnosis.rules._evidence import first_source


@dataclass(frozen=True)
class HeadsMixed(Rule):
    """Heads are split or merged without the transpose, so positions and heads are mixed up.

    **What it means** `[batch, position, width]` was viewed as `[batch, head, position, d_head]` (or merged
    back) without exchanging the two axes in between. Shapes fit, and each "position" of a head is a piece of
    another position.

    **Why it matters** Tokens attend to fragments of other tokens; masks no longer mean what they say, so a
    causal model also leaks.

    **Evidence required** The trace follows a marked position through split and merge and finds it elsewhere.

    **When it is a false alarm** None is known.

    **How to confirm** Replace the pattern by the identity: the merged output must be the value projection of
    the same position.

    **What to try** `x.view(batch, length, n_heads, d_head).transpose(1, 2)`, and `.transpose(1, 2)` before
    the view that merges.
    """

    code: ClassVar[str] = "PRJ301"
    alternatives: ClassVar[tuple[str, ...]] = ("batch and position axes are exchanged",)
    remedies: ClassVar[tuple[str, ...]] = (
        "split with view(batch, length, n_heads, d_head).transpose(1, 2)",
        "merge with transpose(1, 2).reshape(batch, length, d_model)",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per attention whose heads and positions are mixed."""
        suspects = []
        for attention in examination.anatomy.attentions:
            if attention.head_layout != "positions mixed":
                continue
            layer = f"L{attention.layer}"
            suspects.append(
                Suspect(
                    kind="heads_mixed",
                    place=attention.site("heads"),
                    evidence=(
                        Evidence(
                            f"positions of {layer} do not come back to where they were", "anatomy", exact=True
                        ),
                    ),
                    confidence=0.95,
                    source=first_source(attention.layout_step, attention.value_step, attention.score_step),
                    summary=f"{layer} splits or merges its heads without the transpose: positions and heads are mixed.",
                    effects=(
                        f"*@{layer}.mask",
                        "future_leak@*",
                        "padding_attended@*",
                        "positions_*@*",
                        "altered_gradient@" + layer + ".*",
                        "wrong_cache_position@*",
                    ),
                )
            )
        return suspects
