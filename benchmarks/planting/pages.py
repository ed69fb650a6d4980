"""The pages that the commands write: tables of what was found, from the rows and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from planting.reasons import reason_for

Data = Mapping[str, Any]


def planted_page(data: Data) -> str:
    """`docs/planted_faults.md`."""
    rows: list[Data] = data["rows"]
    by_kind: dict[str, list[Data]] = {}
    for row in rows:
        by_kind.setdefault(row["kind"], []).append(row)
    found = [row for row in rows if row["found"]]
    first = [row for row in found if row["rank"] == 1]
    placed = [row for row in found if row["place"]]
    lined = [row for row in rows if row["line"] != "-" and row["found"]]
    lines = [
        "# Planted faults",
        "",
        "Made by `python benchmarks/planted_faults.py`; do not edit. Each mistake is planted in small models as",
        "people make it: an edit of the model's own source (the package's small models and copies of the modelling",
        "files of Hugging Face), a change of parameters, optimiser, data or loss. The model is then trained with the",
        "mistake in it and given to `attnscope.diagnose` with a few batches, without a healthy twin.",
        "",
        "- *found*: a finding of the right kind, as a warning or an error;",
        "- *rank*: its place among all warnings and errors;",
        "- *place*: the block or site that it names is one that the mistake changed;",
        "- *line*: it names the edited line (`exact`), or one within five lines in the same file (`near`). A dash",
        "  where the mistake is in no line of code.",
        "",
        "These are the cases that the rules were developed on, so the numbers say what the rules can do, not how",
        "they fare on mistakes that nobody thought of. Small models only.",
        "",
        f"**{len(found)} of {len(rows)} found**, {len(first)} of them first; the right place in {len(placed)} of",
        f"{len(found)}; the edited line in {_count(lined, 'exact')} of {len(lined)} and a near one in "
        f"{_count(lined, 'near')}.",
        f"Seed {data['seed']}, torch {data['torch']}, {data['seconds']} s on one core.",
        "",
        "## By kind",
        "",
        "| kind | planted | models | found | first | right place | line exact / near |",
        "|---|---:|---|---:|---:|---:|---:|",
    ]
    for kind, group in by_kind.items():
        hits = [row for row in group if row["found"]]
        with_line = [row for row in hits if row["line"] != "-"]
        models = ", ".join(dict.fromkeys(row["model"] for row in group))
        exact = f"{_count(with_line, 'exact')} / {_count(with_line, 'near')} of {len(with_line)}" if with_line else "-"
        lines.append(
            f"| {kind} | {len(group)} | {models} | {len(hits)} | {sum(row['rank'] == 1 for row in hits)} | "
            f"{sum(bool(row['place']) for row in hits)} | {exact} |"
        )
    lines += [
        "",
        "## Every case",
        "",
        "| kind | variant | model | found | rank | place | line | besides |",
        "|---|---|---|---|---:|---|---|---|",
    ]
    lines += [_planted_row(row) for row in rows]
    lines += ["", "## What fails, and why", "", *_failures(rows), ""]
    return "\n".join(lines)


def controls_page(data: Data) -> str:
    """`docs/negative_controls.md`."""
    rows: list[Data] = data["rows"]
    alarms = [row for row in rows if row["alarms"] or row["error"]]
    lines = [
        "# Negative controls",
        "",
        "Made by `python benchmarks/negative_controls.py`; do not edit. Healthy small models, and changes that leave",
        "the function or the health of a model as it was. A finding that is a warning or an error is a false alarm.",
        "Notes are allowed; their number is given.",
        "",
        f"**{len(rows) - len(alarms)} of {len(rows)} controls are silent.** Effort {data['effort']}, torch "
        f"{data['torch']}, {data['seconds']} s on one core.",
        "",
        "| control | case | findings | notes |",
        "|---|---|---:|---:|",
    ]
    for row in rows:
        said = row["error"] or (f"{len(row['alarms'])}: {'; '.join(row['alarms'])}" if row["alarms"] else "0")
        lines.append(f"| {row['group']} | {row['name']} | {said} | {len(row['notes'])} |")
    lines += ["", "## False alarms, and why", ""]
    for row in alarms:
        reason = reason_for(f"{row['group']}: {row['name']}")
        lines.append(f"- *{row['group']}: {row['name']}*: {reason}.")
    if not alarms:
        lines.append("None.")
    return "\n".join([*lines, ""])


def _count(rows: Iterable[Data], line: str) -> int:
    return sum(row["line"] == line for row in rows)


def _planted_row(row: Data) -> str:
    verdict = "yes" if row["found"] else f"crash: {row['error'][:80]}" if row["error"] else "**no**"
    place = "-" if row["place"] is None else ("yes" if row["place"] else f"**no** ({row['named_place']})")
    besides = "; ".join(row["others"][:3]) + ("; ..." if len(row["others"]) > 3 else "")
    cells = (row["kind"], row["variant"], row["model"], verdict, row["rank"] or "-", place, row["line"], besides)
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _failures(rows: Sequence[Data]) -> list[str]:
    """One line for each case that was missed, crashed, or named at a wrong place or line."""
    told = []
    for row in rows:
        name = f"{row['kind']}/{row['model']}/{row['variant']}".replace(" ", "-")
        if row["error"] or not row["found"]:
            told.append(f"- `{name}` missed: {reason_for(name)}.")
        elif not row["place"]:
            told.append(f"- `{name}` named at {row['named_place']}: {reason_for(name)}.")
        elif row["line"] == "no":
            told.append(f"- `{name}` with another line or none: {reason_for(name)}.")
    return told or ["Nothing."]
