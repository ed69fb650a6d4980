"""Diagnoses healthy models and changes that harm nothing; every finding here is a false alarm.

    python benchmarks/negative_controls.py                    all of them, and writes docs/negative_controls.md
    python benchmarks/negative_controls.py --select bfloat16   some of them, printed only

A control passes when no finding is a warning or graver. Notes are counted apart: they are allowed.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))

from planting.controls import CONTROLS, Control
from planting.pages import controls_page

from attnscope.examine import diagnose
from attnscope.lenses import EFFORTS

ROOT = Path(__file__).parents[1]


def main() -> int:
    """Runs the selected controls; writes the page and the JSON when all were run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--select", default="", help="only controls whose group and name hold this")
    parser.add_argument("--effort", default="standard", choices=EFFORTS, help="of the diagnosis")
    parser.add_argument("--page", action="store_true", help="write the page from the stored answers and stop")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.page:
        return written()
    wanted = [control for control in CONTROLS if chosen.select in f"{control.group}: {control.name}"]
    start = time.perf_counter()
    rows = []
    for number, control in enumerate(wanted, 1):
        row = answered(control, chosen.effort)
        rows.append(row)
        said = "silent" if not row["alarms"] else f"FALSE ALARM {'; '.join(row['alarms'])}"
        label = f"{control.group}: {control.name}"
        print(f"{number:3}/{len(wanted)} {label:60} {row['error'] or said} {row['seconds']:.1f}s", flush=True)
    alarms = sum(bool(row["alarms"]) for row in rows)
    print(f"{alarms} of {len(rows)} controls raised an alarm; {time.perf_counter() - start:.0f} s")
    if len(wanted) == len(CONTROLS):
        data = {
            "effort": chosen.effort,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "seconds": round(time.perf_counter() - start),
            "rows": rows,
        }
        rows_text = ",\n".join(json.dumps(row) for row in data.pop("rows"))
        results(chosen.effort).write_text(f'{json.dumps(data)[:-1]}, "rows": [\n{rows_text}\n]}}\n', encoding="utf-8")
        written()
    return 1 if alarms else 0


def results(effort: str) -> Path:
    """Where the answers at an effort are kept."""
    return ROOT / "benchmarks" / f"negative_controls_{effort}.json"


def written() -> int:
    """The page, from the stored answers."""
    runs = [
        json.loads(results(effort).read_text(encoding="utf-8")) for effort in EFFORTS if results(effort).exists()
    ]
    (ROOT / "docs" / "negative_controls.md").write_text(controls_page(runs), encoding="utf-8")
    return 0


def answered(control: Control, effort: str = "standard") -> dict[str, Any]:
    """What the diagnosis says about one healthy case; an exception is part of the answer."""
    row: dict[str, Any] = {
        "group": control.group,
        "name": control.name,
        "alarms": [],
        "notes": [],
        "error": "",
        "seconds": 0.0,
    }
    try:
        case = control.make()
        start = time.perf_counter()
        diagnosis = diagnose(case, effort=effort)
        row["seconds"] = round(time.perf_counter() - start, 2)
    except Exception as error:  # a crash is a result, too
        row["error"] = f"{type(error).__name__}: {error}"
        return row
    serious = diagnosis.at_least("warning")
    row["alarms"] = [f"{finding.code} {finding.kind} {finding.block_or_site}" for finding in serious]
    row["notes"] = [
        f"{item.code} {item.kind} {item.block_or_site}" for item in diagnosis.findings if item not in serious
    ]
    return row


if __name__ == "__main__":
    raise SystemExit(main())
