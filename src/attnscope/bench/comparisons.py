"""Hessian against gradient: the claim that the benchmark was built to answer, per class and per fault."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from attnscope.bench.kill import KILLED
from attnscope.bench.leaderboard import CLASSES, Results, interval
from attnscope.bench.metrics import Located
from attnscope.bench.scores import Scored
from attnscope.bench.statistics import FEWEST, clustered, holm, paired_p

HESSIAN = ("top_eigenvalue", "trace", "relative_trace", "negative_share", "coupling", "preconditioned_eigenvalue")
GRADIENT = ("gradient_norm", "gradient_z")
# As the paper compares them (as they are), and each side at its best (against healthy runs, scale-free).
PER_FAULT = (("top_eigenvalue", "gradient_norm"), ("relative_trace", "gradient_z"), ("coupling", "gradient_z"))
MEASURES: dict[str, tuple[str, Callable[[Located], float]]] = {
    "top_1": ("place", lambda found: found.tops[0]),
    "mrr": ("place", lambda found: found.reciprocal),
    "layer_top_1": ("layer", lambda found: found.tops[0]),
}


def by_class(results: Results, setting: str) -> list[dict[str, Any]]:
    """Every curvature ranker less every gradient ranker, on the killed faults of each class."""
    found = []
    for hessian in HESSIAN:
        for gradient in GRADIENT:
            pairs = _paired(results, setting, hessian, gradient)
            rows = []
            for visibility in CLASSES:
                chosen = [pair for pair in pairs if visibility in ("all", pair[0].row.visibility)]
                if chosen:
                    rows.append({"class": visibility, **_difference(chosen)})
            adjusted = holm({row["class"]: row["p"] for row in rows if row["class"] != "all"})
            found += [
                {"setting": setting, "hessian": hessian, "gradient": gradient, **row,
                 "p_holm": adjusted.get(row["class"], row["p"])}
                for row in rows
            ]  # fmt: skip
    return found


def by_fault(results: Results, setting: str) -> list[dict[str, Any]]:
    """The same for single faults, for the three pairs that matter; Holm over the faults of each pair."""
    found = []
    for hessian, gradient in PER_FAULT:
        pairs = _paired(results, setting, hessian, gradient)
        rows = []
        for change in sorted({first.row.change for first, _ in pairs}):
            chosen = [pair for pair in pairs if pair[0].row.change == change]
            rows.append({"fault": change, "class": chosen[0][0].row.visibility, **_difference(chosen)})
        adjusted = holm({row["fault"]: row["p"] for row in rows})
        found += [
            {"setting": setting, "hessian": hessian, "gradient": gradient, **row, "p_holm": adjusted[row["fault"]]}
            for row in rows
        ]
    return found


def _paired(results: Results, setting: str, hessian: str, gradient: str) -> list[tuple[Scored, Scored]]:
    others = {item.row.key: item for item in results.final(setting, gradient)}
    return [
        (item, others[item.row.key])
        for item in results.final(setting, hessian)
        if results.bench.stratum(item.row) == KILLED and item.row.key in others
    ]


def _difference(pairs: Sequence[tuple[Scored, Scored]]) -> dict[str, Any]:
    """Mean differences with intervals; p is of the difference in MRR, which ties and near misses move too."""
    subjects = {first.row.subject for first, _ in pairs}
    whole = len(subjects) >= FEWEST
    clusters: list[Hashable] = [
        first.row.subject if whole else (first.row.subject, first.row.seed) for first, _ in pairs
    ]
    found: dict[str, Any] = {"rows": len(pairs), "subjects": len(subjects), "clusters": "subjects" if whole else "runs"}
    for name, (level, measure) in MEASURES.items():
        values = [_less(first.located.get(level), second.located.get(level), measure) for first, second in pairs]
        found[name] = interval(clustered(values, clusters))
        if name == "mrr":
            found["p"] = math.nan if all(map(math.isnan, values)) else paired_p(values, clusters)
    return found


def _less(first: Located | None, second: Located | None, measure: Callable[[Located], float]) -> float:
    return math.nan if first is None or second is None else measure(first) - measure(second)
