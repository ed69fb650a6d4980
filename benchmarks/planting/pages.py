"""The pages that the commands write: tables of what was found, from the rows and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from planting.reasons import reason_for

Data = Mapping[str, Any]


def planted_page(developed: Data, held_out: Data | None = None, seeds: Sequence[Data] = ()) -> str:
    """`docs/planted_faults.md`."""
    lines = [
        "# Planted faults",
        "",
        "Made by `python benchmarks/planted_faults.py`; do not edit. Each mistake is planted in small models as people",
        "make it: an edit of the model's own source (the package's small models and copies of the modelling files of",
        "Hugging Face), a change of parameters, optimiser, data or loss. The model is trained with the mistake in it",
        "and given to `attnscope.diagnose` with two batches, without a healthy twin.",
        "",
        "- *found*: a finding of the right kind, as a warning or an error;",
        "- *rank*: its place among all warnings and errors;",
        "- *place*: the block or site that it names is one that the mistake changed;",
        "- *line*: it names the edited line (`exact`), or one within five lines in the same file (`near`); a dash",
        "  where the mistake is in no line of code.",
        "",
        f"The rules were developed on the first table: **{_found(developed['rows'])}**. {_run(developed)}",
    ]
    if held_out is not None:
        first = held_out.get("first_contact")
        lines += [
            "",
            "The second table holds other models, styles and mistakes. "
            + (
                f"The first time that they were tried (revision {first['revision']}), before any rule was changed for "
                f"them, the answer was **{first['found']} of {first['planted']} found**; that is the honest "
                "estimate of how the diagnosis fares on small models that it has not seen. "
                if first
                else ""
            )
            + f"Now: **{_found(held_out['rows'])}**. {_run(held_out)}",
        ]
    for other in seeds:
        missed = ", ".join(f"`{_name(row)}`" for row in other["rows"] if row["error"] or not row["found"])
        told = f"{_run(other)} Missed: {missed or 'none'}."
        lines += ["", f"The same with another seed: **{_found(other['rows'])}**. {told}"]
    lines += [
        "",
        "Negative controls are in [negative_controls.md](negative_controls.md).",
        "",
        "## By kind",
        "",
        *_by_kind(developed["rows"]),
    ]
    lines += ["", "## Every case", "", *_every_case(developed["rows"])]
    rows = list(developed["rows"])
    if held_out is not None:
        lines += ["", "## Held out, every case", "", *_every_case(held_out["rows"])]
        rows += held_out["rows"]
    lines += ["", "## What fails, and why", "", *_failures(rows), ""]
    return "\n".join(lines)


def _found(rows: Sequence[Data]) -> str:
    found = [row for row in rows if row["found"]]
    lined = [row for row in found if row["line"] != "-"]
    return (
        f"{len(found)} of {len(rows)} found, {sum(row['rank'] == 1 for row in found)} of them first, "
        f"{sum(bool(row['place']) for row in found)} at the right place, the edited line exactly in "
        f"{_count(lined, 'exact')} of {len(lined)} and nearly in {_count(lined, 'near')}"
    )


def _run(data: Data) -> str:
    return f"Seed {data['seed']}, torch {data['torch']}, {data['seconds']} s on one core."


def _by_kind(rows: Sequence[Data]) -> list[str]:
    by_kind: dict[str, list[Data]] = {}
    for row in rows:
        by_kind.setdefault(row["kind"], []).append(row)
    lines = [
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
    return lines


def _every_case(rows: Sequence[Data]) -> list[str]:
    head = ["| kind | variant | model | found | rank | place | line | besides |", "|---|---|---|---|---:|---|---|---|"]
    return [*head, *(_planted_row(row) for row in rows)]


def controls_page(runs: Sequence[Data]) -> str:
    """`docs/negative_controls.md`, from one run per effort."""
    lines = [
        "# Negative controls",
        "",
        "Made by `python benchmarks/negative_controls.py` and the same with `--effort deep`; do not edit. Healthy",
        "small models, and changes that leave the function or the health of a model as it was. A finding that is a",
        "warning or an error is a false alarm. Notes are allowed; their number is given.",
        "",
    ]
    for data in runs:
        rows = data["rows"]
        silent = sum(not (row["alarms"] or row["error"]) for row in rows)
        lines.append(
            f"- effort {data['effort']}: **{silent} of {len(rows)} controls are silent** (torch {data['torch']}, "
            f"{data['seconds']} s on one core)"
        )
    efforts = [data["effort"] for data in runs]
    lines += ["", f"| control | case | {' | '.join(f'findings, {effort} | notes' for effort in efforts)} |"]
    lines.append(f"|---|---|{'---:|---:|' * len(efforts)}")
    by_name = [{(row["group"], row["name"]): row for row in data["rows"]} for data in runs]
    for group, name in by_name[0]:
        cells = [cell for found in by_name for cell in _control_cells(found.get((group, name)))]
        lines.append(f"| {group} | {name} | {' | '.join(cells)} |")
    lines += ["", "## False alarms, and why", ""]
    alarms = [(data["effort"], row) for data in runs for row in data["rows"] if row["alarms"] or row["error"]]
    for effort, row in alarms:
        name = f"{row['group']}: {row['name']}"
        lines.append(f"- *{name}* (effort {effort}): {reason_for(name)}.")
    if not alarms:
        lines.append("None.")
    return "\n".join([*lines, ""])


def _control_cells(row: Data | None) -> tuple[str, str]:
    if row is None:
        return "-", "-"
    said = row["error"] or (f"{len(row['alarms'])}: {'; '.join(row['alarms'])}" if row["alarms"] else "0")
    return said, str(len(row["notes"]))


def _name(row: Data) -> str:
    return f"{row['kind']}/{row['model']}/{row['variant']}".replace(" ", "-")


def _count(rows: Iterable[Data], line: str) -> int:
    return sum(row["line"] == line for row in rows)


def _planted_row(row: Data) -> str:
    verdict = "yes" if row["found"] else f"crash: {row['error'][:80]}" if row["error"] else "**no**"
    if row.get("losses"):
        before, after = row["losses"]
        verdict += f" (loss {before:.2g} to {after:.2g})"
    place = "-" if row["place"] is None else ("yes" if row["place"] else f"**no** ({row['named_place']})")
    besides = "; ".join(row["others"][:3]) + ("; ..." if len(row["others"]) > 3 else "")
    cells = (row["kind"], row["variant"], row["model"], verdict, row["rank"] or "-", place, row["line"], besides)
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _failures(rows: Sequence[Data]) -> list[str]:
    """One line for each case that was missed, crashed, or named at a wrong place or line."""
    told = []
    for row in rows:
        name = _name(row)
        if row["error"] or not row["found"]:
            told.append(f"- `{name}` missed: {reason_for(name)}.")
        elif not row["place"]:
            told.append(f"- `{name}` named at {row['named_place']}: {reason_for(name)}.")
        elif row["line"] == "no":
            told.append(f"- `{name}` with another line or none: {reason_for(name)}.")
    return told or ["Nothing."]
