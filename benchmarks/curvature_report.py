"""Writes the tables of `benchmarks/curvature.py` and `curvature_scaling.py` into docs/curvature_benchmark.md.

    python benchmarks/curvature_report.py pretrained.json base.json --scaling scaling.json

The text between the tables is written by hand and stays.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "curvature_benchmark.md"


def table(run: dict[str, Any]) -> str:
    """One run as Markdown."""
    environment = run["environment"]
    trained = f"trained for {run['training']} steps" if run["training"] else "untrained"
    lines = [
        f"**{run['setup']}**, {trained}. A gradient takes {run['gradient_seconds']:.3f} s of processor; "
        f"{run['repeats']} turns. {environment['processor']}, {environment['threads']} thread, "
        f"load {environment['load']:.1f} at the start; torch {environment['torch']}, Python {environment['python']}, "
        f"hessian-eigenthings {environment['hessian-eigenthings']}, PyHessian {environment['PyHessian']}, "
        f"curvlinops {environment['curvlinops-for-pytorch']}.",
        "",
        "| what | measured | on the wall | target | met | note |",
        "|---|---|---|---|---|---|",
    ]
    for row in run["rows"]:
        target = "" if row["target"] is None else f"≤ {row['target']:g}"
        lines.append(
            f"| {row['what']} | {_said(row['measured'])} {'' if row['unit'] == 'gradients' else row['unit']} | "
            f"{_said(row['wall'])} | {target} | {row['met']} | {row['note']} |"
        )
    return "\n".join(lines)


def scaling(found: dict[str, Any]) -> str:
    """Costs and memory against size."""
    lines = ["| size | whole product | one block, all outputs | one block, own output |", "|---|---|---|---|"]
    for axis, rows in found["cost"].items():
        if axis == "blocks":
            continue
        for value, row in rows.items():
            lines.append(f"| {axis} {value} | " + " | ".join(f"{cost:.2f}" for cost in row.values()) + " |")
    lines += ["", "| blocks | own products of all, in gradients |", "|---|---|"]
    lines += [f"| {n} | {next(iter(row.values())):.1f} |" for n, row in found["cost"]["blocks"].items()]
    lines += ["", "| vocabulary | cross-entropy | peak of a gradient, in logits | peak of a product, in logits |",
              "|---|---|---|---|"]
    for key, (gradient, product) in found["memory"].items():
        n_tokens, whose = key.split()
        lines.append(f"| {n_tokens} | {whose} | {gradient:.1f} | {product:.1f} |")
    return "\n".join(lines)


def _said(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.3g}" if value < 10 else f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def put(page: str, name: str, text: str) -> str:
    """The page with the part of that name replaced."""
    begin, end = f"<!-- {name} -->", f"<!-- end {name} -->"
    return re.sub(re.escape(begin) + ".*?" + re.escape(end), lambda _: f"{begin}\n{text}\n{end}", page, flags=re.DOTALL)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--scaling", type=Path)
    args = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    for path in args.runs:
        run = json.loads(path.read_text(encoding="utf-8"))
        page = put(page, run["size"], table(run))
    if args.scaling:
        page = put(page, "scaling", scaling(json.loads(args.scaling.read_text(encoding="utf-8"))))
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
