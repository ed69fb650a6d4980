"""Report: what the rows of a benchmark say, as one offline page, as Markdown tables, or as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attnscope.bench.banks import SETTINGS, UNPAIRED
from attnscope.bench.kill import KILLED, UNTESTED
from attnscope.bench.leaderboard import CLASS_WORDS, STRATA
from attnscope.bench.page import page
from attnscope.bench.row import Row
from attnscope.bench.tables import tables
from attnscope.bench.wording import COLUMNS, difference, p_value, plural, shown, stratum_words
from attnscope.plain import plain

FORMATS = ("html", "markdown", "json")
MOST_MISSES = 40


def report_text(
    rows: Sequence[Row],
    format: str = "markdown",
    about: Mapping[str, Any] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> str:
    """The report of a benchmark's rows.

    Args:
        rows: of the results file.
        format: `html`, `markdown` or `json`.
        about: how the rows were made.
        progress: told how far it is.

    Raises:
        ValueError: there is no such format.
    """
    if format not in FORMATS:
        raise ValueError(f"{format!r} is not a format; they are {', '.join(FORMATS)}")
    data = tables(rows, about, progress)
    if format == "json":
        return json.dumps(plain(data), indent=1, allow_nan=False) + "\n"
    return page(data) if format == "html" else markdown(data)


def markdown(data: Mapping[str, Any]) -> str:
    """The tables as Markdown."""
    parts = ["# Who finds which mistakes", "", *_counts(data["counts"])]
    parts += ["", *(f"Missing: {said}" for said in data["missing"])]
    for setting in SETTINGS:
        for stratum in STRATA:
            parts += _leaderboard(data["leaderboard"], setting, stratum)
    parts += _hessian(data)
    parts += _splits(data["splits"])
    parts += _kinds(data["kinds"])
    parts += _controls(data["controls"])
    parts += _calibration(data["calibration"])
    parts += _latency(data["latency"])
    parts += _mutants(data["mutants"])
    parts += _misses(data["misses"])
    return "\n".join(parts).rstrip() + "\n"


def table(heads: Sequence[str], lines: Sequence[Sequence[object]]) -> list[str]:
    """A Markdown table; a bar in a cell stays a bar."""
    rows = [" | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in line) for line in lines]
    return [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}", *(f"| {row} |" for row in rows), ""]


def _counts(counts: Mapping[str, Any]) -> list[str]:
    status = ", ".join(f"{count} {name}" for name, count in counts["status"].items()) or "none"
    strata = ", ".join(f"{count} {name}" for name, count in counts["strata"].items()) or "none"
    lines = [
        (subject, seen["rows"], seen["faults"], seen["controls"], shown(seen["healthy_quality"]))
        for subject, seen in counts["subjects"].items()
    ]
    return [
        f"{plural(counts['rows'], 'row')} ({status}); faulty runs at their last look: {strata}.",
        "",
        *table(("subject", "rows", "faults", "controls", "healthy quality"), lines),
    ]


def _leaderboard(entries: Sequence[Mapping[str, Any]], setting: str, stratum: str) -> list[str]:
    parts = [f"## Leaderboard: {setting}, {stratum_words(stratum)}", ""]
    chosen = [entry for entry in entries if entry["setting"] == setting and entry["stratum"] == stratum]
    if not chosen:
        return [] if stratum == UNTESTED else [*parts, "No rows.", ""]
    for visibility, said in CLASS_WORDS.items():
        rows = [entry for entry in chosen if entry["class"] == visibility]
        if not rows:
            continue
        where = f"{plural(rows[0]['rows'], 'run')}, {plural(rows[0]['subjects'], 'subject')}"
        title = said if visibility == "all" else f"class {visibility}, {said}"
        parts += [f"### {title} ({where})", ""]
        lines = [
            (entry["ranker"], *(shown(entry["metrics"][name]) for name, _, _ in COLUMNS), shown(entry["cost"]))
            for entry in rows
        ]
        parts += table(("ranker", *(head for _, head, _ in COLUMNS), "gradients"), lines)
    return parts


def _hessian(data: Mapping[str, Any]) -> list[str]:
    parts = ["## Hessian against gradient", ""]
    for setting in SETTINGS:
        chosen = [entry for entry in data["hessian"] if entry["setting"] == setting]
        if not chosen:
            parts += [f"No killed fault in the {setting} setting.", ""]
            continue
        lines = [
            (entry["hessian"], entry["gradient"], entry["class"], entry["rows"], difference(entry["top_1"]),
             difference(entry["mrr"]), difference(entry["layer_top_1"]), p_value(entry["p_holm"]))
            for entry in chosen
        ]  # fmt: skip
        parts += [f"### {setting}, per class", ""]
        heads = ("Hessian", "less gradient", "class", "runs", "Top-1", "MRR", "layer Top-1", "p (Holm, MRR)")
        parts += table(heads, lines)
        if setting == UNPAIRED:
            singles = [
                (entry["hessian"], entry["gradient"], entry["fault"], entry["class"], entry["rows"],
                 difference(entry["top_1"]), difference(entry["mrr"]), entry["clusters"], p_value(entry["p_holm"]))
                for entry in data["hessian_by_fault"]
                if entry["setting"] == setting
            ]  # fmt: skip
            parts += [f"### {setting}, per fault", ""]
            titles = ("Hessian", "less gradient", "fault", "class", "runs", "Top-1", "MRR", "drawn again", "p (Holm)")
            parts += table(titles, singles)
    return parts


def _splits(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        (entry["setting"], entry["ranker"], entry["split"], entry["rows"],
         *(shown(entry["metrics"][name]) for name in ("auroc", "recall_1", "false_alarms_1", "recall_5",
                                                     "false_alarms_5", "top_1", "top_3", "mrr")))
        for entry in entries
    ]  # fmt: skip
    heads = ("setting", "ranker", "held out by", "runs", "AUROC", "recall at 1 %", "false alarms then",
             "recall at 5 %", "false alarms then", "Top-1", "Top-3", "MRR")  # fmt: skip
    said = (
        "Held out by kind, findings of the combination that name the row's own kind are withheld: as if no rule for it "
        "had been written."
    )
    body = table(heads, lines) if lines else ["No rows.", ""]
    return ["## Held out by subject, kind and place", "", said, "", *body]


def _kinds(found: Sequence[Mapping[str, Any]]) -> list[str]:
    parts = ["## Kinds", ""]
    for item in found:
        parts += [f"### {item['ranker']}: macro-F1 {shown(item['macro_f1'])}", ""]
        wrong = [cell for cell in item["cells"] if cell["true"] != cell["said"]]
        lines = [(cell["true"] or "(healthy)", cell["said"] or "(nothing)", cell["count"]) for cell in wrong]
        parts += table(("true kind", "said", "runs"), lines) if lines else ["No kind is confused.", ""]
    return parts


def _controls(found: Sequence[Mapping[str, Any]]) -> list[str]:
    if not found:
        return ["## False alarms", "", "No rows.", ""]
    rankers = list(found[0]["alarms"])
    lines = [
        (item["control"], item["rows"], item["errors"], item["warnings"],
         *(shown(item["alarms"][name]) for name in rankers))
        for item in found
    ]  # fmt: skip
    said = "Runs with a finding, and the share of runs above what 5 % of healthy runs reach."
    return ["## False alarms", "", said, "", *table(("control", "runs", "errors", "warnings", *rankers), lines)]


def _calibration(found: Mapping[str, Any]) -> list[str]:
    parts = ["## Confidence", ""]
    if not found["findings"]:
        return [*parts, "No findings.", ""]
    parts.append(
        f"{plural(found['findings'], 'finding')} on held-out subjects, {shown(found['precision'])} of them right. "
        f"ECE {shown(found['stated']['ece'])} as stated, {shown(found['learnt']['ece'])} as learnt on the others."
    )
    lines = [
        (form, f"{item['low']:.1f} to {item['high']:.1f}", item["count"], shown(item["confidence"]),
         shown(item["precision"]))
        for form in ("stated", "learnt")
        for item in found[form]["bins"]
    ]  # fmt: skip
    return [*parts, "", *table(("confidence", "from, to", "findings", "mean", "right"), lines)]


def _latency(found: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        (item["ranker"], item["class"], item["runs"], item["found"], shown(item["median_step"])) for item in found
    ]
    heads = ("ranker", "class", "runs", "found", "median step of the first find")
    body = table(heads, lines) if lines else ["No run was looked at more than once.", ""]
    return ["## Latency", "", *body]


def _mutants(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Survivors, which are easily forgotten; all mutants are in the JSON."""
    left = [item for item in found if item["verdict"] != KILLED]
    parts = ["## Mutants that were not killed", ""]
    parts.append(f"{len(left)} of {plural(len(found), 'mutant')}.")
    lines = [
        (item["subject"], item["fault"], item["where"] or "–", shown(item["strength"]), item["seeds"],
         shown(item["fall"]), shown(item["rise"]), p_value(item["p"]),
         "improved" if item["improved"] else item["verdict"])
        for item in left
    ]  # fmt: skip
    heads = ("subject", "fault", "place", "strength", "seeds", "fall of quality", "rise of loss", "p", "verdict")
    return [*parts, "", *(table(heads, lines) if lines else [])]


def _misses(found: Sequence[Mapping[str, Any]]) -> list[str]:
    parts = ["## Where the misses are", ""]
    if not found:
        return [*parts, "None.", ""]
    parts.append(
        f"{plural(len(found), 'run')} of killed faults (combination, {UNPAIRED}) are not found at 5 % false alarms "
        f"or put in the wrong place; one a fault and subject is shown, at most {MOST_MISSES}."
    )
    seen: set[tuple[str, str]] = set()
    lines: list[tuple[object, ...]] = []
    for item in found:
        if (item["fault"], item["subject"]) in seen or len(lines) == MOST_MISSES:
            continue
        seen.add((item["fault"], item["subject"]))
        rank = "–" if math.isnan(item["rank"]) else f"{item['rank']:.0f} of {item['candidates']}"
        lines.append(
            (item["fault"], item["class"], "no" if item["detected"] is False else "yes", rank,
             ", ".join(item["truth"][:3]), item["first"], f"`{item['command']}`")
        )  # fmt: skip
    heads = ("fault", "class", "found", "rank", "truth", "put first", "see it again")
    return [*parts, "", *table(heads, lines)]


