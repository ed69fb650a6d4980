"""How the report writes its numbers: the same in Markdown and on the page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from attnscope.bench.kill import KILLED, SURVIVED, UNTESTED

# metric, head of its column, what it means
COLUMNS = (
    ("auroc", "AUROC", "chance that a faulty run is more suspicious than a healthy one of the same subject"),
    ("auprc", "AUPRC", "mean precision over all thresholds"),
    ("recall_1", "recall at 1 %", "faults found by a threshold that 1 % of other subjects' healthy runs pass"),
    ("recall_5", "recall at 5 %", "faults found by a threshold that 5 % of other subjects' healthy runs pass"),
    ("top_1", "Top-1", "a right block or site comes first"),
    ("top_3", "Top-3", "a right block or site is among the first three"),
    ("top_5", "Top-5", "a right block or site is among the first five"),
    ("mrr", "MRR", "mean of one over the rank of the first right block or site"),
    ("exam", "EXAM", "share of blocks and sites that are looked at until a right one"),
    ("block_top_1", "block Top-1", "among blocks alone, where the label names a block"),
    ("site_top_1", "site Top-1", "among sites alone, where the label names a site"),
    ("layer_top_1", "layer Top-1", "among layers"),
    ("head_top_1", "head Top-1", "among heads, where the label names a head"),
    ("kind_f1", "kind F1", "macro-F1 of the kinds"),
)  # fmt: skip


def shown(value: float | Mapping[str, Any] | None) -> str:
    """`0.82 [0.71, 0.90]`; `0.82` without an interval; a dash where there is nothing."""
    if isinstance(value, Mapping):
        if math.isnan(value["value"]):
            return "–"
        said = _number(value["value"])
        return said if math.isnan(value["low"]) else f"{said} [{_number(value['low'])}, {_number(value['high'])}]"
    return "–" if value is None or math.isnan(value) else _number(value)


def difference(value: Mapping[str, Any]) -> str:
    """`+0.12 [+0.03, +0.20]`."""
    if math.isnan(value["value"]):
        return "–"
    said = _signed(value["value"])
    return said if math.isnan(value["low"]) else f"{said} [{_signed(value['low'])}, {_signed(value['high'])}]"


def p_value(value: float) -> str:
    """Two digits that matter; small ones as a bound."""
    if math.isnan(value):
        return "–"
    return "<0.001" if value < 0.001 else f"{value:.2g}"


def plural(amount: int, noun: str) -> str:
    """`1 run`, `3 runs`."""
    return f"{amount} {noun if amount == 1 else noun + 's'}"


def stratum_words(stratum: str) -> str:
    """What a stratum holds."""
    return {
        KILLED: "faults that changed the task",
        SURVIVED: "faults that the task survived",
        UNTESTED: "faults with too few seeds to tell whether they changed the task",
    }[stratum]


def _number(value: float) -> str:
    if value == int(value) and abs(value) >= 10:
        return f"{value:.0f}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")
