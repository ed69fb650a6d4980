"""The cases of a benchmark as plain data: which subject, which mistake, where, how grave, which seed, when."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from attnscope import catalogue
from attnscope.anatomy.blocks import Anatomy
from attnscope.bench.row import CONTROL, FAULT, HEALTHY
from attnscope.bench.subjects import Subject
from attnscope.case import Case
from attnscope.errors import CatalogueError
from attnscope.faults import Fault, anatomy_of

PLACES = ("early", "middle", "late")

# What section of the catalogues each kind of model is asked about.
HAN, VIDEO = re.compile(r"H\d+"), re.compile(r"V\d+")
ENCODER = re.compile(r"[A-Z]{3}|D\d+")
DECODER = (
    "MCB", "CST", "CDU", "COB", "CTR", "CLK", "MZM", "QZQ", "QZK", "QZV", "QSW", "QTH", "SDS", "SPD", "POE", "PSI",
    "FSW", "NSG", "NZG", "RRS", "ETZ", "OSL", "D2", "D7", "D8",
)  # fmt: skip
PATCHES = ("QZQ", "QZV", "QSW", "QTH", "SDS", "POE", "FSW", "NSG", "RRS", "D2", "D3", "D5", "D7", "D8", "D9")


@dataclass(frozen=True)
class BenchCase:
    """One training and one look at it.

    Attributes:
        subject: a member of `bench/subjects`.
        arm: `healthy`, `fault` or `control`.
        change: the fault's or control's name.
        where: `early`, `middle`, `late`; empty when the mistake has no layer.
        layer: of the fault.
        strength: of the fault.
        seed: of everything random.
        moment: share of the training after which it is looked at.
    """

    subject: str
    arm: str = HEALTHY
    change: str = ""
    where: str = ""
    layer: int = 0
    strength: float = 1.0
    seed: int = 0
    moment: float = 1.0

    @property
    def key(self) -> str:
        """Names the case; `of_key` reads it back."""
        place = f"{self.where or '-'}:{self.layer}"
        return (
            f"{self.subject}/{self.arm}/{self.change or '-'}/{place}/{self.strength:g}/seed{self.seed}/{self.moment:g}"
        )

    @classmethod
    def of_key(cls, key: str) -> BenchCase:
        """The case of a key.

        Raises:
            ValueError: it is not the key of a case.
        """
        parts = key.split("/")
        try:
            subject, arm, change, place, strength, seed, moment = parts
            where, layer = place.split(":")
            found = cls(
                subject, arm, "" if change == "-" else change, "" if where == "-" else where, int(layer),
                float(strength), int(seed.removeprefix("seed")), float(moment),
            )
        except ValueError:
            raise ValueError(
                f"{key!r} is not the key of a case; a key looks like {BenchCase('han_keyed').key!r}, "
                "and `attnscope bench list` prints them"
            ) from None
        return found


@dataclass(frozen=True)
class Size:
    """How much is run.

    Attributes:
        subjects: which, in order.
        seeds: of the faults, controls and their healthy twins.
        bank_seeds: of the healthy runs that thresholds come from.
        arms: pairs of (place, severity) that every fault is planted at; all nine make the full factorial.
        rotated: whether each seed has the next of the arms, instead of all of them: a balanced fraction, in which
            place, severity and seed vary together.
        early_moments: at what other shares of the training the faults of the first seed are looked at, beside its
            healthy twin and the healthy runs that thresholds come from.
        faults: only these; all when empty.
        controls: only these; all when empty.
        about: what it costs, for `--help`.
    """

    subjects: tuple[str, ...]
    seeds: tuple[int, ...]
    bank_seeds: tuple[int, ...]
    arms: tuple[tuple[int, int], ...]
    rotated: bool = False
    early_moments: tuple[float, ...] = ()
    faults: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()
    about: str = ""


SUBJECTS = (
    "han_reviews", "han_keyed", "conv3d_digits", "distilbert_reviews", "gpt_copying", "gpt_reviews", "vit_digits",
)  # fmt: skip
EACH_ONCE_BY_SIX = ((0, 0), (1, 1), (2, 2), (0, 2), (1, 0), (2, 1))  # places and severities, each twice
SIZES = {
    "smoke": Size(
        subjects=("han_keyed", "gpt_copying"),
        seeds=(0, 1),
        bank_seeds=(6, 7, 8),
        arms=((0, 1),),
        faults=("missing_scale", "zeroed_value", "softmax_wrong_axis", "future_leak"),
        controls=("query_key_rescaled", "heads_permuted"),
        about="two subjects, four mistakes: two minutes",
    ),
    "small": Size(
        subjects=SUBJECTS,
        seeds=tuple(range(6)),
        bank_seeds=tuple(range(6, 18)),
        arms=EACH_ONCE_BY_SIX,
        rotated=True,
        early_moments=(0.1,),
        about="seven subjects, every mistake with six seeds over three places and severities: hours on two cores",
    ),
    "paper": Size(
        subjects=(*SUBJECTS, "distilbert_pretrained", "distilbert_sst", "distilbert_trec"),
        seeds=tuple(range(10)),
        bank_seeds=tuple(range(10, 40)),
        arms=tuple((place, severity) for place in range(3) for severity in range(3)),
        early_moments=(0.1, 0.5),
        about="ten subjects, all places and severities, ten seeds, pre-trained DistilBERT: for a cluster",
    ),
}


@dataclass
class Plan:
    """The cases of one size, and why others are not among them."""

    cases: list[BenchCase] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def plan(size: Size, progress: Callable[[int, int, str], None] | None = None) -> Plan:
    """Every case of a size: each subject is built and traced once, to know which faults apply to it.

    Healthy runs come first, then the cases of one seed after the other, so that a run that is stopped early has
    seen every mistake.
    """
    made = Plan()
    known = catalogue.names("subjects")
    by_seed: dict[int, list[BenchCase]] = {seed: [] for seed in size.seeds}
    for number, name in enumerate(size.subjects):
        if progress is not None:
            progress(number, len(size.subjects), f"planning {name}")
        if name not in known:
            raise CatalogueError(f"no subject {name!r}; there are {', '.join(known)}")
        subject: Subject = catalogue.load("subjects", name)()
        why = subject.unavailable()
        if why:
            made.left_out[name] = why
            continue
        made.cases += [BenchCase(name, seed=seed) for seed in (*size.seeds, *size.bank_seeds)]
        made.cases += [
            BenchCase(name, seed=seed, moment=moment)
            for moment in size.early_moments
            for seed in (size.seeds[0], *size.bank_seeds)
        ]
        case = subject.case()
        for template in _controlled(size, name):
            for seed in size.seeds:
                by_seed[seed].append(replace(template, seed=seed))
        for index, seed in enumerate(size.seeds):
            arms = (size.arms[index % len(size.arms)],) if size.rotated else size.arms
            by_seed[seed] += [replace(each, seed=seed) for each in _faulty(size, arms, subject, case, made.left_out)]
    for seed, cases in by_seed.items():
        made.cases += cases
        if seed == size.seeds[0]:
            made.cases += list(_early(size, cases))
    return made


def _faulty(
    size: Size, arms: Sequence[tuple[int, int]], subject: Subject, case: Case, left_out: dict[str, str]
) -> Iterator[BenchCase]:
    """The faults that apply, at each arm; arms that are the same for a fault (it has no layer) are one."""
    anatomy = anatomy_of(case)
    for name in size.faults or catalogue.names("faults"):
        member = catalogue.load("faults", name)
        if not size.faults and not _is_asked(subject.model, member.ids):
            continue
        planned = {}
        for place, severity in arms:
            layer = layer_at(anatomy, place) if member.layered else 0
            strength = member.severities[min(severity, len(member.severities) - 1)]
            where = PLACES[place] if member.layered else ""
            why = _why_not(member(strength=strength, layer=layer), case, anatomy)
            if why:
                left_out[f"{subject.name}/{name}/{where or '-'}"] = why
            else:
                planned[where, layer, strength] = BenchCase(subject.name, FAULT, name, where, layer, strength)
        yield from planned.values()


def _why_not(fault: Fault, case: Case, anatomy: Anatomy) -> str:
    try:
        return fault.obstacle(case, anatomy)
    except Exception as error:  # a fault that cannot even say so does not apply
        return f"{type(error).__name__}: {error}"


def layer_at(anatomy: Anatomy, place: int) -> int:
    """The attention that stands early, in the middle or late; they may coincide in a shallow model."""
    last = len(anatomy.attentions) - 1
    return (0, last // 2 if last != 1 else 1, last)[place]


def _is_asked(model: str, ids: Sequence[str]) -> bool:
    """Whether a model's section of the catalogues holds a fault with these ids."""
    if model == "han":
        return any(HAN.fullmatch(each) for each in ids)
    if model == "conv3d_attention":
        return any(VIDEO.fullmatch(each) for each in ids)
    if model.startswith("gpt"):
        return any(each in DECODER for each in ids)
    if model == "vit":
        return any(each in PATCHES for each in ids)
    return any(ENCODER.fullmatch(each) for each in ids)


def _controlled(size: Size, subject: str) -> Iterator[BenchCase]:
    for name in size.controls or catalogue.names("controls"):
        yield BenchCase(subject, CONTROL, name)


def _early(size: Size, cases: Iterable[BenchCase]) -> Iterator[BenchCase]:
    """The first arm of every fault, looked at sooner: how soon would it have been found?"""
    seen: set[tuple[Any, ...]] = set()
    for case in cases:
        if case.arm == FAULT and (case.subject, case.change) not in seen:
            seen.add((case.subject, case.change))
            for moment in size.early_moments:
                yield replace(case, moment=moment)
