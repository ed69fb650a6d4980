"""Plants every kind of mistake in at least two models each and says what the diagnosis found.

    python benchmarks/planted_faults.py                        all of it, and writes docs/planted_faults.md
    python benchmarks/planted_faults.py --select mask --seed 1  some of it, printed only

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

import torch

sys.path.insert(0, str(Path(__file__).parent))

from planting.everything import PLANTED, SEEN_ONLY_AFTER_TRAINING
from planting.moment import training_cut_to
from planting.pages import planted_page
from planting.planted import Row, examined, plain

ROOT = Path(__file__).parents[1]


def main() -> int:
    """Runs the selected mistakes; writes the page and the JSON when all were run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--select", default="", help="only mistakes whose name (kind/model/variant) holds this")
    parser.add_argument("--start", type=int, default=0, help="pass over so many of them")
    parser.add_argument("--seed", type=int, default=0, help="of initialisation and data")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    parser.add_argument("--untrained", action="store_true", help="look at initialisation; printed only")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    wanted = [planted for planted in PLANTED if chosen.select in planted.name][chosen.start :]
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
    if len(wanted) == len(PLANTED) and not chosen.untrained:
        data = {
            "seed": chosen.seed,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "seconds": round(seconds),
            "rows": [plain(row) for row in rows],
        }
        (ROOT / "benchmarks" / "planted_faults.json").write_text(json.dumps(data, indent=0) + "\n", encoding="utf-8")
        (ROOT / "docs" / "planted_faults.md").write_text(planted_page(data), encoding="utf-8")
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
