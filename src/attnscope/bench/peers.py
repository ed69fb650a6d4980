"""Peers: what a published diagnoser says about the same bench cases, scored as ours is. No torch.

The peer is the package defaultplusplus (DEFault++) as it ships. `benchmarks/bench_peers.py` runs it and writes the
answers that are read here. It names a category and a root cause, never a place, so that places are not compared.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from attnscope.bench.metrics import above, auroc, threshold
from attnscope.bench.row import FAULT, HEALTHY, Row
from attnscope.errors import RecordError
from attnscope.findings import Severity

INTENDED = "intended"  # the arm of healthy runs of the kind that the peer is made for
ALLOWED = 0.05  # false alarms at which recall is told

# Operator -> category, from its `deform/operators.py` (those that apply to encoders).
CATEGORIES = {
    **dict.fromkeys(("MZM", "MIM", "MRM"), "masking"),
    **dict.fromkeys(("QZQ", "QZK", "QZV", "QSW", "QTH", "QFG"), "qkv"),
    **dict.fromkeys(("SDS", "SPD", "SUC"), "score"),
    **dict.fromkeys(("POE", "PSI", "PTL"), "positional"),
    **dict.fromkeys(("KSB", "KMD", "KFT"), "kernel"),
    **dict.fromkeys(("VSH", "VEC"), "variant"),
    **dict.fromkeys(("ETZ", "ESW", "ESS"), "embedding"),
    **dict.fromkeys(("FSW", "FDN", "FCA", "FRG", "FWI"), "ffn"),
    **dict.fromkeys(("NSG", "NZG", "NSB", "NCE"), "layernorm"),
    **dict.fromkeys(("RRS", "RSR", "RIN", "RGC"), "residual"),
    **dict.fromkeys(("OSL", "OZR", "ORI", "OOD"), "output"),
}

# Operator -> the root cause that the shipped diagnoser has a name for. Its labels are not the root causes of its
# operators, so they are matched by what the operator does; what has no clear match is left out (FRG, FWI, RGC, ORI,
# OOD and the kernel's fallbacks), and so are labels of no operator (out_noise, double_position).
ROOT_CAUSES = {
    "MZM": "zero_mask", "MIM": "inverted_mask", "MRM": "wrong_mask_broadcast",
    "QZQ": "zero_query", "QZK": "zero_key", "QZV": "zero_value", "QSW": "swapped_qk", "QTH": "tie_heads",
    "QFG": "freeze_qkv", "SDS": "missing_scaling", "SPD": "misplaced_dropout", "SUC": "unsafe_type_cast",
    "POE": "missing_positional", "PSI": "off_by_one", "PTL": "truncate_positions", "KMD": "inconsistent_dropout",
    "VSH": "wrong_variant", "VEC": "causal_in_noncausal", "ETZ": "embedding_zero", "ESW": "embedding_swap",
    "FSW": "ffn_weight_scaling", "FDN": "ffn_neuron_drop", "FCA": "activation_distortion",
    "NSG": "ln_gamma_fault", "NZG": "ln_gamma_fault", "NSB": "ln_beta_fault", "NCE": "ln_stats_fault",
    "RRS": "residual_drop", "RSR": "residual_scale", "RIN": "residual_noise",
    "OSL": "out_scale", "OZR": "out_row_drop",
}  # fmt: skip
N_CATEGORIES = len(set(CATEGORIES.values()))
N_ROOT_CAUSES = 38  # that the shipped diagnoser of encoders can name


@dataclass(frozen=True)
class Answer:
    """What the peer says about one run.

    Attributes:
        is_faulty: its own decision.
        detection_prob: its probability of a fault; `margin`: its logarithm of odds, which does not saturate.
        category, root_cause: empty when it decides that the run is healthy.
    """

    is_faulty: bool
    detection_prob: float
    margin: float
    category: str = ""
    category_prob: float = 0.0
    root_cause: str = ""
    root_cause_prob: float = 0.0

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Answer:
        """From the package's own words, where no category is None."""
        known = {item.name for item in fields(cls)}
        given: dict[str, Any] = {name: value for name, value in data.items() if name in known and value is not None}
        return cls(**given)


@dataclass(frozen=True)
class PeerRow:
    """One run and what the peer says about it.

    Attributes:
        key: of the bench case.
        arm: `healthy`, `fault`, or `intended`; `change`: the fault; `ids`: its ids in catalogues.
        bank: whether it is one of the healthy runs that stand for the clean reference in `aligned`.
        quality: held-out accuracy after training.
        seconds: of the training with the peer's hooks.
        known: how many of the features that its diagnoser was trained on it could measure.
        shipped: its answer as it ships; None when it failed, and `why` says how.
        aligned: its answer with our healthy runs as its clean reference.
        refusal: what the README's first recipe, without its normalizer, answers.
    """

    key: str
    arm: str
    change: str = ""
    ids: tuple[str, ...] = ()
    seed: int = 0
    bank: bool = False
    quality: float = math.nan
    seconds: float = 0.0
    known: int = 0
    shipped: Answer | None = None
    aligned: Answer | None = None
    refusal: str = ""
    why: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        found = asdict(self)
        return {**found, "ids": list(self.ids), "quality": None if math.isnan(self.quality) else self.quality}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PeerRow:
        """The inverse of `to_dict`; fields of a later version are passed over."""
        known = {item.name for item in fields(cls)}
        given = {name: value for name, value in data.items() if name in known}
        given["ids"] = tuple(given.get("ids", ()))
        if given.get("quality") is None:
            given["quality"] = math.nan
        for name in ("shipped", "aligned"):
            if given.get(name) is not None:
                given[name] = Answer.from_dict(given[name])
        return cls(**given)

    @property
    def category(self) -> str:
        """The category that its catalogue gives the fault; empty when it does not have it."""
        return next((CATEGORIES[each] for each in self.ids if each in CATEGORIES), "")

    @property
    def root_cause(self) -> str:
        """The root cause that its diagnoser should name; empty when it has no name for it."""
        return next((ROOT_CAUSES[each] for each in self.ids if each in ROOT_CAUSES), "")


@dataclass(frozen=True)
class Verdict:
    """What any diagnoser says about one run, reduced to what is compared."""

    arm: str
    detected: bool
    suspicion: float


@dataclass(frozen=True)
class Detection:
    """How well a diagnoser tells faulty runs from healthy ones.

    Attributes:
        faulty, healthy: how many rows.
        auroc: of its suspicion.
        f1, recall: at its own decision; `false_alarms`: the share of healthy runs that it calls faulty.
        recall_allowed: recall at the threshold above which at most a twentieth of the healthy runs lies.
    """

    faulty: int
    healthy: int
    auroc: float
    f1: float
    recall: float
    false_alarms: float
    recall_allowed: float


def detection(verdicts: Iterable[Verdict]) -> Detection:
    """Scores verdicts on faults and healthy runs; other arms are passed over."""
    rows = list(verdicts)
    faulty, healthy = [row for row in rows if row.arm == FAULT], [row for row in rows if row.arm == HEALTHY]
    high, low = [row.suspicion for row in faulty], [row.suspicion for row in healthy]
    hits, alarms = sum(row.detected for row in faulty), sum(row.detected for row in healthy)
    named = len(faulty) + hits + alarms
    return Detection(
        faulty=len(faulty), healthy=len(healthy), auroc=auroc(high, low),
        f1=2.0 * hits / named if named else math.nan,
        recall=hits / len(faulty) if faulty else math.nan,
        false_alarms=alarms / len(healthy) if healthy else math.nan,
        recall_allowed=above(high, threshold(low, ALLOWED)) if low else math.nan,
    )  # fmt: skip


def verdicts(rows: Iterable[PeerRow], *, aligned: bool = False, by: str = "margin") -> list[Verdict]:
    """The peer's verdicts.

    Args:
        rows: those that failed are passed over.
        aligned: with our healthy runs as its clean reference; those runs are left out, as they were used.
        by: the suspicion, `margin` or `detection_prob`.
    """
    found = []
    for row in rows:
        answer = row.aligned if aligned else row.shipped
        if answer is not None and not (aligned and row.bank):
            found.append(Verdict(row.arm, answer.is_faulty, getattr(answer, by)))
    return found


def always(rows: Iterable[PeerRow]) -> list[Verdict]:
    """What one says who calls every run faulty."""
    return [Verdict(row.arm, True, 0.0) for row in rows]


def ours(results: Iterable[Row], keys: Iterable[str]) -> dict[str, Verdict]:
    """Our verdicts on the same cases: detected is a finding that is a warning or an error.

    Args:
        results: rows of the benchmark.
        keys: of the peer's rows.
    """
    wanted = set(keys)
    return {row.key: _ours(row) for row in results if row.key in wanted and row.status == "ok"}


def _ours(row: Row) -> Verdict:
    ranks = [(Severity.NOTE.rank - Severity(found.severity).rank, found.confidence) for found in row.findings]
    suspicion = max((grade + 0.999 * confidence for grade, confidence in ranks), default=0.0)
    return Verdict(row.arm, any(grade > 0 for grade, _ in ranks), suspicion)


@dataclass(frozen=True)
class Named:
    """How often the peer names what its own catalogue calls the fault.

    Attributes:
        n: rows whose fault it has a name for.
        right: the share that it names rightly; a fault that it does not detect counts as wrong.
        guess: what naming the most frequent answer everywhere would reach.
    """

    n: int
    right: float
    guess: float


def named(rows: Iterable[PeerRow], what: str, *, aligned: bool = False) -> Named:
    """Accuracy of `category` or `root_cause` over faults for which they are comparable."""
    pairs = [
        (getattr(row, what), getattr(answer, what))
        for row in rows
        if row.arm == FAULT and getattr(row, what) and (answer := row.aligned if aligned else row.shipped) is not None
    ]
    if not pairs:
        return Named(0, math.nan, math.nan)
    truths = [truth for truth, _ in pairs]
    most = max(truths.count(truth) for truth in set(truths))
    return Named(len(pairs), float(np.mean([truth == said for truth, said in pairs])), most / len(pairs))


def read(path: str | Path) -> tuple[list[PeerRow], dict[str, Verdict], dict[str, Any]]:
    """The peer's rows, our verdicts on the same cases by key, and the environment.

    Raises:
        RecordError: there is no such file, or it is not one of ours.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        rows = [PeerRow.from_dict(row) for row in data["rows"]]
        said = {key: Verdict(**verdict) for key, verdict in data.get("ours", {}).items()}
        environment: dict[str, Any] = data["environment"]
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}; run: python benchmarks/bench_peers.py") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordError(f"{path} does not hold answers of a peer ({type(error).__name__}: {error})") from error
    return rows, said, environment


def text(rows: Sequence[PeerRow], said: Mapping[str, Verdict], environment: Mapping[str, Any]) -> str:
    """The file that `read` reads: one row a line, sorted by key."""
    lines = ",\n".join(json.dumps(row.to_dict()) for row in sorted(rows, key=lambda row: row.key))
    mine = json.dumps({key: asdict(said[key]) for key in sorted(said)})
    return f'{{"environment": {json.dumps(dict(environment))},\n"ours": {mine},\n"rows": [\n{lines}\n]}}\n'
