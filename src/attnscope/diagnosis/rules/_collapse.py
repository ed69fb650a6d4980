"""Where the tokens of a text have become alike, as the rules about rank read it."""

from __future__ import annotations

from attnscope.diagnosis.rules import Examination
from attnscope.diagnosis.rules._evidence import by_layer
from attnscope.diagnosis.rules._healthy import healthy

AFTER_COLLAPSE = tuple(
    f"{kind}@*"
    for kind in ("uniform_attention", "altered_gradient", "positions_*", "gradient_underflow", "cut_gradient")
)
"""Kinds of trouble that follow when all tokens are the same vector."""


def collapse_bound() -> float:
    """The spread below which tokens count as alike: a tenth of the lowest of a healthy model."""
    return healthy("token_spread").lowest / 10


def first_collapsed(examination: Examination) -> tuple[int, float] | None:
    """The first attention whose tokens are alike, and their spread; None when there is none."""
    bound = collapse_bound()
    for layer, values in sorted(by_layer(examination.reading("token_spread")).items()):
        if float(values.min()) < bound:
            return layer, float(values.min())
    return None
