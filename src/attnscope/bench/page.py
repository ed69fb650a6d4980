"""The report as one offline page: made from the tables, with the figures beside them; nothing is loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from attnscope.bench.banks import SETTINGS, UNPAIRED
from attnscope.bench.figures import cost_against_quality, reliability_curve
from attnscope.bench.kill import KILLED, UNTESTED
from attnscope.bench.leaderboard import CHANCE, CLASS_WORDS, STRATA
from attnscope.bench.wording import COLUMNS, difference, p_value, plural, shown, stratum_words
from attnscope.pages.page import asset, environment, policy

MOST_MISSES = 300
MOST_CELLS = 40


def page(data: Mapping[str, Any]) -> str:
    """The page as text."""
    style = asset("page.css") + asset("study.css") + asset("bench.css")
    template = environment().from_string(asset("bench.html"))
    return template.render(**context(data), style=Markup(style), policy=policy(style, ""))


def context(data: Mapping[str, Any]) -> dict[str, Any]:
    """What the template is given: strings and short lists, all of which it escapes."""
    best = _entry(data, UNPAIRED, KILLED, "all", "combination")
    return {
        "headline": _headline(best, data),
        "counts": data["counts"],
        "provenance": [(str(name), str(value)) for name, value in data["about"].items()],
        "missing": data["missing"],
        "columns": COLUMNS,
        "boards": _boards(data),
        "hessian": _hessian(data),
        "by_fault": _by_fault(data),
        "splits": data["splits"],
        "kinds": [_kinds(item) for item in data["kinds"]],
        "controls": data["controls"],
        "alarmed": list(data["controls"][0]["alarms"]) if data["controls"] else [],
        "calibration": data["calibration"],
        "reliability": Markup(reliability_curve(data["calibration"])),
        "costs": Markup(cost_against_quality(_board(data, UNPAIRED, KILLED, "all"))),
        "latency": data["latency"],
        "survivors": [item for item in data["mutants"] if item["verdict"] != KILLED],
        "mutants": len(data["mutants"]),
        "misses": _misses(data["misses"]),
        "n_misses": len(data["misses"]),
        "shown": shown,
        "difference": difference,
        "p_value": p_value,
        "plural": plural,
        "is_nan": math.isnan,
    }


def _headline(best: Mapping[str, Any] | None, data: Mapping[str, Any]) -> str:
    if best is None:
        return "No fault changed its task: nothing to compare"
    top, found = best["metrics"]["top_1"]["value"], best["metrics"]["auroc"]["value"]
    first = "the right place is unknown" if math.isnan(top) else f"the right place comes first in {100 * top:.0f} %"
    second = "" if math.isnan(found) else f"; AUROC {found:.3f}"
    return f"Of {plural(best['rows'], 'faulty run')}, {first}{second}"


def _board(data: Mapping[str, Any], setting: str, stratum: str, visibility: str) -> list[Mapping[str, Any]]:
    return [
        entry
        for entry in data["leaderboard"]
        if (entry["setting"], entry["stratum"], entry["class"]) == (setting, stratum, visibility)
    ]


def _entry(
    data: Mapping[str, Any], setting: str, stratum: str, visibility: str, ranker: str
) -> Mapping[str, Any] | None:
    return next((item for item in _board(data, setting, stratum, visibility) if item["ranker"] == ranker), None)


def _boards(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One group per setting and stratum, with a board for each class; empty groups say so."""
    found = []
    for setting in SETTINGS:
        for stratum in STRATA:
            classes = []
            for visibility, said in CLASS_WORDS.items():
                entries = _board(data, setting, stratum, visibility)
                if entries:
                    title = said if visibility == "all" else f"{visibility}: {said}"
                    classes.append({"title": title, "entries": entries, "open": visibility == "all"})
            if stratum == UNTESTED and not classes:
                continue
            found.append({
                "setting": setting, "stratum": stratum, "words": stratum_words(stratum), "classes": classes,
                "chance": CHANCE, "open": (setting, stratum) == (UNPAIRED, KILLED),
            })  # fmt: skip
    return found


def _hessian(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Per setting a table: a line per pair of rankers, a cell per class."""
    found = []
    for setting in SETTINGS:
        entries = [entry for entry in data["hessian"] if entry["setting"] == setting]
        classes = [name for name in CLASS_WORDS if any(entry["class"] == name for entry in entries)]
        pairs = list(dict.fromkeys((entry["hessian"], entry["gradient"]) for entry in entries))
        cells = {(entry["hessian"], entry["gradient"], entry["class"]): entry for entry in entries}
        found.append({
            "setting": setting,
            "classes": classes,
            "lines": [
                {"pair": pair, "cells": [_cell(cells.get((*pair, name))) for name in classes]} for pair in pairs
            ],
        })  # fmt: skip
    return found


def _cell(entry: Mapping[str, Any] | None) -> dict[str, str]:
    if entry is None:
        return {"said": "–", "side": "", "p": ""}
    return {"said": difference(entry["mrr"]), "side": side(entry["mrr"]), "p": p_value(entry["p_holm"])}


def side(interval: Mapping[str, Any]) -> str:
    """`ahead` or `behind` when the interval leaves out zero, else empty."""
    if math.isnan(interval["low"]):
        return ""
    return "ahead" if interval["low"] > 0 else "behind" if interval["high"] < 0 else ""


def _by_fault(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {**entry, "said": difference(entry["mrr"]), "side": side(entry["mrr"]), "top": difference(entry["top_1"]),
         "p_said": p_value(entry["p_holm"])}
        for entry in data["hessian_by_fault"]
        if entry["setting"] == UNPAIRED
    ]  # fmt: skip


def _kinds(item: Mapping[str, Any]) -> dict[str, Any]:
    wrong = [cell for cell in item["cells"] if cell["true"] != cell["said"]]
    return {
        "ranker": item["ranker"], "macro_f1": item["macro_f1"], "f1": item["f1"], "wrong": wrong[:MOST_CELLS],
        "more": max(0, len(wrong) - MOST_CELLS),
    }  # fmt: skip


def _misses(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Grouped by fault, so that a fault that is missed everywhere is seen at once."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for item in found:
        groups.setdefault(item["fault"], []).append(item)
    ordered = sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))
    made, left = [], MOST_MISSES
    for fault, items in ordered:
        made.append({
            "fault": fault, "class": items[0]["class"], "count": len(items), "items": items[:left],
            "unfound": sum(item["detected"] is False for item in items),
        })  # fmt: skip
        left = max(0, left - len(items))
    return made
