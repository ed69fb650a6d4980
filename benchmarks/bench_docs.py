"""Writes what is made from the stored results of the benchmark: two pages of the docs, and what is learnt from them.

    python benchmarks/bench_docs.py [results.parquet]

docs/bench.md holds all tables, docs/hessian-fault-diagnosis.md the story; its text is in bench_story.md, and every
number in it is read from the results. `diagnosis/confidences.json` says what the confidence of a finding is worth,
and `bench/learned_small.json` how readings are weighed; both are learnt from all rows, for use on other models: the
pages only score what is learnt on other subjects. A test makes all four again.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attnscope.bench.kill import KILLED, SURVIVED
from attnscope.bench.leaderboard import CLASS_WORDS
from attnscope.bench.report import markdown, table
from attnscope.bench.row import Row
from attnscope.bench.scores import learned_from
from attnscope.bench.store import read_columns
from attnscope.bench.tables import tables
from attnscope.bench.wording import difference, p_value, shown
from attnscope.diagnosis import calibration

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "src" / "attnscope" / "bench" / "results_small.parquet"
STORY = Path(__file__).parent / "bench_story.md"
TARGETS = (
    ("detection AUROC", "auroc", 0.98),
    ("recall at 1 % false alarms", "recall_1", 0.90),
    ("kind macro-F1", "kind_f1", 0.92),
    ("Top-1, block or site", "top_1", 0.80),
    ("Top-3", "top_3", 0.95),
    ("MRR", "mrr", 0.87),
)
COMPARED = (
    "combination", "diagnosis", "exact_identities", "relative_trace", "coupling", "top_eigenvalue", "trace",
    "negative_share", "preconditioned_eigenvalue", "gradient_norm", "gradient_z", "gradient_to_weight",
    "gradient_variance", "update_ratio", "weight_distance", "activation_norm", "attention_statistics",
    "block_ablation", "autotrainer_rules", "deepdiagnosis_rules", "parameter_count", "random_order",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="?", type=Path, default=SHIPPED)
    rows, about = read_columns(parser.parse_args().results)
    for path, text in {**pages(tables(rows, about)), **learnt(rows, about)}.items():
        (ROOT / path).write_text(text, encoding="utf-8")
    return 0


def pages(data: Mapping[str, Any]) -> dict[str, str]:
    """Path -> text."""
    environment = ", ".join(f"{name} {value}" for name, value in sorted(data["about"].items()))
    made = f"Made by `python benchmarks/bench_docs.py` from the results that come with the package ({environment}).\n"
    head, _, rest = markdown(data).partition("\n")
    return {"docs/bench.md": f"{head}\n\n{made}{rest}", "docs/hessian-fault-diagnosis.md": story(data, made)}


def learnt(rows: Sequence[Row], about: Mapping[str, Any]) -> dict[str, str]:
    """Path -> JSON of what all rows teach."""
    told = {"command": "python benchmarks/bench_docs.py", "size": str(about.get("size", ""))}
    everything = learned_from(rows, about=told)
    worth = {
        "schema": calibration.SCHEMA, "about": dict(everything.about), "calibration": everything.calibration.to_dict(),
    }  # fmt: skip
    return {
        f"src/attnscope/diagnosis/{calibration.FILE.name}": _json(rounded(worth)),
        "src/attnscope/bench/learned_small.json": _json(rounded(everything.to_dict())),
    }


def rounded(item: Any) -> Any:
    """Numbers with four decimals, so that the file is readable and the same on every machine."""
    if isinstance(item, float):
        return round(item, 4)
    if isinstance(item, Mapping):
        return {key: rounded(value) for key, value in item.items()}
    return [rounded(value) for value in item] if isinstance(item, list | tuple) else item


def _json(data: Mapping[str, Any]) -> str:
    return json.dumps(data, indent=1) + "\n"


def story(data: Mapping[str, Any], made: str) -> str:
    """The text, with its tables and numbers filled in."""
    text = STORY.read_text(encoding="utf-8")
    blocks = {
        "made": made.strip(),
        "counts": counts(data),
        "targets": targets(data),
        "detection": leaderboard(data, "unpaired", ("auroc", "recall_1", "recall_5")),
        "places": leaderboard(data, "unpaired", ("top_1", "top_3", "mrr", "layer_top_1")),
        "classes": classes(data, "unpaired", "top_1"),
        "hessian": hessian(data),
        "false alarms": false_alarms(data),
        "survivors": survivors(data),
    }
    for name, block in blocks.items():
        text = text.replace(f"<!-- {name} -->", block)
    for name, value in numbers(data).items():
        text = text.replace(f"{{{name}}}", value)
    return text


def entry(
    data: Mapping[str, Any], setting: str, stratum: str, visibility: str, ranker: str
) -> Mapping[str, Any] | None:
    """One entry of the leaderboard."""
    for item in data["leaderboard"]:
        if (item["setting"], item["stratum"], item["class"], item["ranker"]) == (setting, stratum, visibility, ranker):
            return item  # type: ignore[no-any-return]
    return None


def value(data: Mapping[str, Any], ranker: str, metric: str, visibility: str = "all") -> float:
    """One number of the unpaired leaderboard, of killed faults; NaN where there is none."""
    found = entry(data, "unpaired", KILLED, visibility, ranker)
    return math.nan if found is None else float(found["metrics"][metric]["value"])


def counts(data: Mapping[str, Any]) -> str:
    """What was run."""
    lines = [
        (subject, seen["rows"], seen["faults"], seen["controls"], shown(seen["healthy_quality"]))
        for subject, seen in data["counts"]["subjects"].items()
    ]
    return "\n".join(table(("subject", "runs", "faults", "controls", "healthy quality"), lines)).strip()


def targets(data: Mapping[str, Any]) -> str:
    """What was aimed at and what was reached, by the combination on held-out subjects."""
    lines = []
    for name, metric, wanted in TARGETS:
        found = entry(data, "unpaired", KILLED, "all", "combination")
        measured = math.nan if found is None else found["metrics"][metric]["value"]
        reached = "yes" if measured >= wanted else "**no**"
        lines.append((name, f"≥ {wanted:.2f}", shown(None if found is None else found["metrics"][metric]), reached))
    on_c = entry(data, "unpaired", KILLED, "C", "combination")
    top = math.nan if on_c is None else on_c["metrics"]["top_1"]["value"]
    lines.append(("Top-1 on class C", "≥ 0.70", shown(None if on_c is None else on_c["metrics"]["top_1"]),
                  "yes" if top >= 0.7 else "**no**"))  # fmt: skip
    errors = sum(item["errors"] for item in data["controls"])
    total = sum(item["rows"] for item in data["controls"])
    lines.append(("findings at error level on healthy runs and controls", "0", f"{errors} of {total} runs",
                  "yes" if errors == 0 else "**no**"))  # fmt: skip
    held_out = data["calibration"]
    ece = held_out["learnt"]["ece"] if held_out.get("findings") else math.nan
    lines.append(("calibration error of confidences (learnt on other subjects)", "≤ 0.05", shown(ece),
                  "yes" if ece <= 0.05 else "**no**"))  # fmt: skip
    cost = math.nan
    found = entry(data, "unpaired", KILLED, "all", "diagnosis")
    if found is not None and found["cost"] is not None:
        cost = found["cost"]
    lines.append(("cost of a standard diagnosis, in gradients", "≤ 60", shown(cost), "yes" if cost <= 60 else "**no**"))
    return "\n".join(table(("what", "target", "measured", "reached"), lines)).strip()


def leaderboard(data: Mapping[str, Any], setting: str, metrics: Sequence[str]) -> str:
    """Rankers in the order of the last metric, on killed faults of all classes."""
    heads = {"auroc": "AUROC", "recall_1": "recall at 1 %", "recall_5": "recall at 5 %", "top_1": "Top-1",
             "top_3": "Top-3", "mrr": "MRR", "layer_top_1": "layer Top-1"}  # fmt: skip
    found = [(name, entry(data, setting, KILLED, "all", name)) for name in (*COMPARED, "(chance)")]
    known = [(name, item) for name, item in found if item is not None]
    known.sort(key=lambda pair: -_sortable(pair[1]["metrics"].get(metrics[0])))
    lines = [
        (name, item["family"], *(shown(item["metrics"].get(metric)) for metric in metrics), shown(item["cost"]))
        for name, item in known
    ]
    return "\n".join(table(("ranker", "family", *(heads[m] for m in metrics), "gradients"), lines)).strip()


def classes(data: Mapping[str, Any], setting: str, metric: str) -> str:
    """One metric of every ranker, class by class, and whether the combination is ahead."""
    present = [name for name in CLASS_WORDS if entry(data, setting, KILLED, name, "combination") is not None]
    lines = []
    for ranker in COMPARED:
        cells = []
        for visibility in present:
            found = entry(data, setting, KILLED, visibility, ranker)
            cells.append(shown(None if found is None else found["metrics"][metric]["value"]))
        lines.append((ranker, *cells))
    heads = ("ranker", *(f"{name}: {CLASS_WORDS[name]}" if name != "all" else "all" for name in present))
    return "\n".join(table(heads, lines)).strip()


def hessian(data: Mapping[str, Any]) -> str:
    """Differences of localisation, Hessian less gradient, per class."""
    wanted = (("top_eigenvalue", "gradient_norm"), ("trace", "gradient_norm"), ("relative_trace", "gradient_z"),
              ("coupling", "gradient_z"), ("preconditioned_eigenvalue", "gradient_z"))  # fmt: skip
    lines = [
        (item["hessian"], item["gradient"], item["class"], item["rows"], difference(item["top_1"]),
         difference(item["mrr"]), p_value(item["p_holm"]))
        for item in data["hessian"]
        if item["setting"] == "unpaired" and (item["hessian"], item["gradient"]) in wanted
    ]  # fmt: skip
    return "\n".join(table(("Hessian", "less gradient", "class", "runs", "Top-1", "MRR", "p (Holm)"), lines)).strip()


def false_alarms(data: Mapping[str, Any]) -> str:
    """Findings on what is healthy, and how often each ranker passes the threshold of healthy runs."""
    named = list(data["controls"][0]["alarms"]) if data["controls"] else []
    lines = [
        (item["control"], item["rows"], item["errors"], item["warnings"],
         *(shown(item["alarms"][name]) for name in named))
        for item in data["controls"]
    ]  # fmt: skip
    return "\n".join(table(("control", "runs", "errors", "warnings", *named), lines)).strip()


def survivors(data: Mapping[str, Any]) -> str:
    """How many mutants changed the task, by subject."""
    subjects = sorted({item["subject"] for item in data["mutants"]})
    lines = []
    for subject in subjects:
        mine = [item for item in data["mutants"] if item["subject"] == subject]
        faults = {item["fault"] for item in mine}
        killed = {item["fault"] for item in mine if item["verdict"] == KILLED}
        lived = sorted({item["fault"] for item in mine if item["verdict"] == SURVIVED} - killed)
        lines.append((subject, len(faults), len(killed), ", ".join(lived) or "none"))
    return "\n".join(table(("subject", "faults", "changed the task", "did not"), lines)).strip()


def numbers(data: Mapping[str, Any]) -> dict[str, str]:
    """Numbers that the text names."""
    found = {}
    for ranker in COMPARED:
        for metric in ("auroc", "recall_1", "recall_5", "top_1", "top_3", "mrr", "kind_f1"):
            found[f"{ranker}.{metric}"] = _plain(value(data, ranker, metric))
            found[f"{ranker}.{metric}.C"] = _plain(value(data, ranker, metric, "C"))
    for item in data["splits"]:
        if (item["setting"], item["ranker"], item["split"]) == ("unpaired", "combination", "kind"):
            for metric in ("auroc", "recall_1", "top_1", "mrr"):
                found[f"unknown kind.{metric}"] = _plain(item["metrics"][metric]["value"])
    strata = data["counts"]["strata"]
    found["killed"] = str(strata.get(KILLED, 0))
    found["survived"] = str(strata.get(SURVIVED, 0))
    found["rows"] = str(data["counts"]["rows"])
    calm = data["controls"]
    found["calm"] = str(sum(item["rows"] for item in calm))
    found["calm errors"] = str(sum(item["errors"] for item in calm))
    found["calm warnings"] = str(sum(item["warnings"] for item in calm))
    found["misses"] = str(len(data["misses"]))
    held_out = data["calibration"]
    if held_out.get("findings"):
        found["findings"] = str(held_out["findings"])
        found["precision"] = _plain(held_out["precision"])
        found["ece stated"] = _plain(held_out["stated"]["ece"])
        found["ece learnt"] = _plain(held_out["learnt"]["ece"])
    return found


def _sortable(metric: Mapping[str, Any] | None) -> float:
    return -1.0 if metric is None or math.isnan(metric["value"]) else float(metric["value"])


def _plain(number: float) -> str:
    return "–" if math.isnan(number) else f"{number:.2f}"


if __name__ == "__main__":
    raise SystemExit(main())
