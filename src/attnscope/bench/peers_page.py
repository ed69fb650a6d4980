"""The page about a published diagnoser on the same bench cases, as Markdown. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from attnscope.bench.peers import (
    INTENDED,
    N_CATEGORIES,
    N_ROOT_CAUSES,
    PeerRow,
    Verdict,
    always,
    detection,
    named,
    verdicts,
)
from attnscope.bench.row import FAULT, HEALTHY

DIFFERENCES = """## What differs from its intended use

- It is made for whole fine-tunings of pre-trained models: its clean reference is of
  {recipe}. Ours is a tiny model
  that is trained from scratch, for {epochs} epochs of a few dozen steps. Its diagnoser reads the learning rate and
  the seconds per step as features, so that another recipe or machine by itself is unlike its reference.
- Of its {features} features, {known} are measured on our model; the normalizer fills the others with the medians of
  its clean runs. (On the six layers of a pre-trained DistilBERT it measures {known_intended}.)
- The README's first recipe gives the extractor's features to the diagnoser directly. In 0.4.1 that answers{refusal}.
  The second recipe, with `RuntimeNormalizer`, is what is used here.
- Its published F1 (0.826 for encoders) is of features that are differences between a faulty run and its healthy
  twins. The package at run time has one run and no twin, and so have we.
- *With our healthy runs* is more than it ships: features are expressed in spreads around the medians of {bank}
  healthy runs of ours, then put around its own clean medians. Those runs are left out of the score.
- Faults that its catalogue does not have are counted for detection, and left out for category and root cause.
"""
VERSIONS = ("package", "python", "torch", "numpy", "transformers", "scikit-learn", "pandas")
RECIPE = "about ten epochs, a peak rate of 2e-5, 0.06 s a step, a training accuracy near 1 (read off its medians)"


def page(rows: Sequence[PeerRow], said: Mapping[str, Verdict], environment: Mapping[str, Any]) -> str:
    """The page.

    Args:
        rows: the peer's.
        said: our verdicts on the same cases, by key; may be empty.
        environment: versions and settings.
    """
    parts = [
        "# A published diagnoser on the same cases",
        "Made by `python benchmarks/bench_peers.py`; do not edit. The package defaultplusplus (DEFault++, Apache-2.0), "
        "as it ships, watches trainings of the benchmark's "
        f"`{environment.get('subject', '')}` with and without faults, and says whether the run is faulty, the "
        "category and the root cause. Like our diagnosis it sees one run without a healthy twin.",
        ", ".join(f"{name} {value}" for name, value in environment.items() if name in VERSIONS) + ".",
        "## Is the run faulty?",
        *_detected(rows, said),
        "## Which fault is it?",
        *_named(rows),
        "## Healthy runs",
        *_healthy(rows),
        _differences(rows, environment),
        "## Every fault",
        _table(
            ("fault", "ids", "seed", "quality", "as it ships", "with our healthy runs", "right"),
            [_fault(row) for row in sorted(rows, key=lambda row: (row.change, row.seed)) if row.arm == FAULT],
        ),
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _detected(rows: Sequence[PeerRow], said: Mapping[str, Verdict]) -> list[str]:
    told = [row for row in rows if row.arm in (FAULT, HEALTHY)]
    kinds = {
        "as it ships, by its probability": verdicts(rows, by="detection_prob"),
        "as it ships, by its log odds": verdicts(rows),
        "with our healthy runs": verdicts(rows, aligned=True),
        "calling every run faulty": always(told),
    }
    if said:
        kinds["attnscope, on the same cases"] = [said[row.key] for row in told if row.key in said]
    lines = []
    for name, found in kinds.items():
        score = detection(found)
        lines.append((
            name, str(score.faulty), str(score.healthy), _number(score.auroc), _number(score.f1),
            _number(score.recall), _number(score.false_alarms), _number(score.recall_allowed),
        ))  # fmt: skip
    heads = ("who", "faulty", "healthy", "AUROC", "F1", "recall", "false alarms", "recall at 5 % false alarms")
    failed = [row for row in told if row.shipped is None]
    worst = min((row.quality for row in told if row.arm == HEALTHY), default=math.nan)
    harmed = [row for row in told if row.arm == FAULT and row.quality < worst]
    harm = (
        f"{len(harmed)} of {sum(row.arm == FAULT for row in told)} faulty runs end below the worst healthy run "
        f"({_number(worst)} of the held-out answers right). The peer's published numbers are of faults that harm the "
        "task; those that do not are in this table, for it as for us."
    )
    reasons = sorted({row.why for row in failed})
    note = f"It failed on {len(failed)} of {len(told)} runs{': ' if failed else ''}{'; '.join(reasons)}."
    return [
        _table(heads, lines),
        "F1, recall and false alarms are at its own decision. Its probability is 1 to the last digit on many runs, so "
        "that the AUROC of its log odds is given beside it. With so few healthy runs, 5 % means: above all of them.",
        harm,
        note,
    ]


def _named(rows: Sequence[PeerRow]) -> list[str]:
    lines = []
    for what, classes in (("category", N_CATEGORIES), ("root_cause", N_ROOT_CAUSES)):
        for name, aligned in (("as it ships", False), ("with our healthy runs", True)):
            found = named(rows, what, aligned=aligned)
            lines.append(
                (what.replace("_", " "), name, str(found.n), str(classes), _number(found.right), _number(found.guess))
            )
    faults = {row.change: row for row in rows if row.arm == FAULT}
    unknown = sorted(change for change, row in faults.items() if not row.category)
    return [
        _table(("what", "who", "runs", "classes", "right", "always the most frequent"), lines),
        f"{len(faults) - len(unknown)} of {len(faults)} faults are in its catalogue. Not in it, and counted for "
        f"detection alone: {', '.join(f'`{name}`' for name in unknown) or 'none'}.",
    ]


def _healthy(rows: Sequence[PeerRow]) -> list[str]:
    kinds = {
        "tiny model from scratch, this benchmark": [row for row in rows if row.arm == HEALTHY],
        "pre-trained model, fine-tuned by its recipe": [row for row in rows if row.arm == INTENDED],
    }
    lines = []
    for name, found in kinds.items():
        found = [row for row in found if row.shipped is not None]
        answers = [row.shipped for row in found if row.shipped is not None]
        if not answers:
            continue
        quality = f"{min(row.quality for row in found):.2f} to {max(row.quality for row in found):.2f}"
        causes = sorted({f"{answer.category}/{answer.root_cause}" for answer in answers if answer.is_faulty})
        lines.append((
            name, str(len(answers)), quality, str(sum(answer.is_faulty for answer in answers)),
            f"{min(answer.detection_prob for answer in answers):.3f}", ", ".join(causes),
            f"{np.median([row.seconds for row in found]):.0f}",
        ))  # fmt: skip
    heads = ("healthy runs", "n", "held-out accuracy", "called faulty", "smallest probability", "as", "seconds a run")
    return [
        _table(heads, lines),
        "No fault is planted in these. A run whose held-out accuracy is near one half has not learnt the task (a few "
        "dozen texts are not enough at that learning rate), so that calling it faulty is no plain false alarm. "
        "Seconds are medians on the wall, on a machine that others used as well.",
    ]


def _differences(rows: Sequence[PeerRow], environment: Mapping[str, Any]) -> str:
    refusals = sorted({row.refusal for row in rows if row.refusal})
    known = [row.known for row in rows if row.arm in (FAULT, HEALTHY) and row.known]
    intended = [row.known for row in rows if row.arm == INTENDED and row.known]
    return DIFFERENCES.format(
        recipe=RECIPE, epochs=environment.get("epochs", ""), features=environment.get("features", ""),
        known=_span(known), known_intended=_span(intended),
        refusal=f" `{refusals[0]}`" if refusals else " without an error",
        bank=sum(row.bank for row in rows),
    )  # fmt: skip


def _span(values: Sequence[int]) -> str:
    if not values:
        return "an unknown number"
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def _fault(row: PeerRow) -> tuple[str, ...]:
    def told(answer: Any) -> str:
        if answer is None:
            return row.why or "-"
        return f"{answer.category}/{answer.root_cause}" if answer.is_faulty else "healthy"

    right = [
        what
        for what, truth in (("category", row.category), ("root_cause", row.root_cause))
        if truth and row.shipped is not None and getattr(row.shipped, what) == truth
    ]
    return (
        row.change.replace("_", " "), ", ".join(row.ids), str(row.seed), _number(row.quality), told(row.shipped),
        told(row.aligned), ", ".join(right).replace("_", " ") or ("no" if row.category else "-"),
    )  # fmt: skip


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    return "\n".join(
        f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *(list(line) for line in lines))
    )
