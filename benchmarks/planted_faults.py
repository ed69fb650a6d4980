"""Plants every kind of mistake in at least two models each and says what the diagnosis found.

    python benchmarks/planted_faults.py                        all of it, and writes docs/planted_faults.md
    python benchmarks/planted_faults.py --select mask --seed 1  some of it, printed only
    python benchmarks/planted_faults.py --seed 2                all of it with another seed; the page tells it, too
    python benchmarks/planted_faults.py --held-out              the mistakes that no rule was developed on
    python benchmarks/planted_faults.py --page                  writes the page again from the stored rows

A row is right when a finding of the right kind is there as a warning or graver; its rank, the place it names and
the line it names are scored apart. No healthy twin is given to the diagnosis.
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

from planting import held_out
from planting.everything import PLANTED, SEEN_ONLY_AFTER_TRAINING
from planting.moment import training_cut_to
from planting.pages import planted_page
from planting.planted import Row, examined, plain

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks"
DEVELOPED = RESULTS / "planted_faults.json"
HELD_OUT = RESULTS / "planted_held_out.json"


def main() -> int:
    """Runs the selected mistakes; writes the page and the JSON when all were run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--select", default="", help="only mistakes whose name (kind/model/variant) holds this")
    parser.add_argument("--start", type=int, default=0, help="pass over so many of them")
    parser.add_argument("--seed", type=int, default=0, help="of initialisation and data")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    parser.add_argument("--untrained", action="store_true", help="look at initialisation; printed only")
    parser.add_argument("--held-out", action="store_true", help="the mistakes that no rule was developed on")
    parser.add_argument("--page", action="store_true", help="write the page from the stored rows and stop")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.page:
        return written()
    every = held_out.PLANTED if chosen.held_out else PLANTED
    wanted = [planted for planted in every if chosen.select in planted.name][chosen.start :]
    if chosen.untrained:
        wanted = [planted for planted in wanted if planted.kind not in SEEN_ONLY_AFTER_TRAINING]
    if chosen.list:
        print("\n".join(planted.name for planted in wanted))
        return 0
    start = time.perf_counter()
    rows: list[Row] = []
    for number, planted in enumerate(wanted, 1):
        with training_cut_to(0.0 if chosen.untrained else 1.0):
            row = examined(planted, chosen.seed)
        rows.append(row)
        print(f"{number:3}/{len(wanted)} {planted.name:72} {told(row)}", flush=True)
    seconds = time.perf_counter() - start
    print(f"found {sum(row.found for row in rows)} of {len(rows)}; {seconds:.0f} s")
    if len(wanted) == len(every) and not chosen.untrained:
        data = {
            "seed": chosen.seed,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "seconds": round(seconds),
            "rows": [plain(row) for row in rows],
        }
        path = HELD_OUT if chosen.held_out else DEVELOPED
        stored(path if chosen.seed == 0 else path.with_stem(f"{path.stem}_seed_{chosen.seed}"), data)
        return written()
    return 0


def stored(path: Path, data: dict[str, Any]) -> None:
    """Writes the rows, one a line; what was said the first time stays beside what is said now."""
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if "first_contact" in before:
        data["first_contact"] = before["first_contact"]
    rows = ",\n".join(json.dumps(row) for row in data.pop("rows"))
    head = json.dumps(data)[:-1]
    path.write_text(f'{head}, "rows": [\n{rows}\n]}}\n', encoding="utf-8")


def written() -> int:
    """The page, from the stored rows."""
    others = sorted(RESULTS.glob("planted_faults_seed_*.json"))
    data = [json.loads(path.read_text(encoding="utf-8")) for path in (DEVELOPED, HELD_OUT) if path.exists()]
    seeds = [json.loads(path.read_text(encoding="utf-8")) for path in others]
    (ROOT / "docs" / "planted_faults.md").write_text(planted_page(*data, seeds=seeds), encoding="utf-8")
    return 0


def told(row: Row) -> str:
    """One line of progress."""
    if row.error:
        return f"CRASH {row.error[:150]}"
    if not row.found:
        return f"MISSED ({'; '.join(row.others[:3]) or 'silent'}) {row.seconds:.1f}s"
    place = "" if row.place else f" WRONG PLACE {row.named_place}"
    line = "" if row.line in ("-", "exact") else f" LINE {row.line}"
    others = f" also: {'; '.join(row.others[:3])}" if row.others else ""
    return f"rank {row.rank}{place}{line}{others} {row.seconds:.1f}s"


if __name__ == "__main__":
    raise SystemExit(main())
