"""A normalisation silences or drowns what follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from attnscope.anatomy.blocks import without_numbers
from attnscope.diagnosis.rules import Evidence, Examination, Rule, Severity, Suspect
from attnscope.diagnosis.rules._evidence import by_block, shown
from attnscope.diagnosis.rules._healthy import healthy

_NEEDED = 2  # siblings
_AGREE = 1.35  # largest over smallest gain of siblings that agree
_APART = 1.6  # from the nearest of them


@dataclass(frozen=True)
class NormGain(Rule):
    """A normalisation has a gain of zero, or one far beyond those of the rest of the model.

    **What it means** The gain multiplies every normalised state. Zero silences all that follows on this path;
    a huge one saturates the scores and drowns the other branch of a residual.

    **Why it matters** With a gain of zero the layer behind it is dead; with a huge one its attention is
    one-hot.

    **Evidence required** The gain, measured by running the module, is exactly zero in every channel; or it is
    ten times larger than any gain of the healthy models that were measured, and more than ten times the
    model's median. Or it lies outside of all that those models have, 1.6 times above or below the gains at the same
    place of two other layers or more, which lie inside and agree with one another within a third.

    **When it is a false alarm** Some models start the gain of a residual branch at zero on purpose, in every
    block alike: a note before training.

    **How to confirm** Print the weight of the normalisation.

    **What to try** Set it to one and fine-tune, or load it again.
    """

    code: ClassVar[str] = "CRV603"
    needs: ClassVar[tuple[str, ...]] = ("norm_gain",)
    alternatives: ClassVar[tuple[str, ...]] = (
        "gains of residual branches that start at zero on purpose",
        "a gain that undoes a small weight behind it (folded normalisation)",
    )
    remedies: ClassVar[tuple[str, ...]] = (
        "check that the weight of the normalisation was loaded",
        "set the gain to one and fine-tune with a small learning rate",
        "leave gains and biases out of weight decay",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per normalisation."""
        reading = examination.reading("norm_gain")
        gains = by_block(reading)
        suspects = []
        zero = [name for name, gain in gains.items() if gain == 0]
        by_design = len(zero) > 1 and 2 * len(zero) >= len(gains)
        for name in zero:
            suspects.append(_zero(name, by_design))
        largest = 10 * healthy("norm_gain").highest
        ratios: list[Any] = list(reading.facts.get("over_median", ())) if reading is not None else []
        for (name, gain), ratio in zip(gains.items(), ratios, strict=False):
            alone = ratio is None or len(gains) < 2
            if gain > largest and (alone or float(ratio) > 10):
                suspects.append(_huge(name, gain, None if alone else float(ratio), largest))
            elif gain > 0:
                place = without_numbers(name)
                siblings = [gains[other] for other in gains if other != name and without_numbers(other) == place]
                if _stands_out(gain, siblings):
                    suspects.append(_odd(name, gain, siblings))
        return suspects


def _stands_out(gain: float, siblings: list[float]) -> bool:
    """Whether a gain is far from siblings that agree, and outside of what healthy models have."""
    if len(siblings) < _NEEDED or min(siblings) <= 0:
        return False
    known = healthy("norm_gain")
    usual = known.lowest < min(siblings) and max(siblings) < known.highest
    agree = max(siblings) < _AGREE * min(siblings)
    apart = gain > _APART * max(siblings) or _APART * gain < min(siblings)
    return usual and agree and apart and not known.lowest <= gain <= known.highest


def _odd(name: str, gain: float, siblings: list[float]) -> Suspect:
    low, high = shown(min(siblings)), shown(max(siblings))
    return Suspect(
        kind="norm_gain",
        place=name,
        evidence=(
            Evidence(f"the gain of {name} is {shown(gain)}", "norm_gain", gain, max(siblings)),
            Evidence(f"the same normalisation of {len(siblings)} other layers has {low} to {high}", "norm_gain"),
        ),
        confidence=0.7,
        severity=Severity.WARNING,
        score=gain,
        summary=f"The normalisation {name} multiplies by {shown(gain)}, and that of the {len(siblings)} other layers "
        f"by {low} to {high}.",
        effects=("saturated_scores@*", "half_precision_overflow@*"),
    )


def _zero(name: str, by_design: bool) -> Suspect:
    counter = (Evidence("half of the model's normalisations have it, which may be the design", "norm_gain"),)
    return Suspect(
        kind="norm_gain",
        place=name,
        evidence=(Evidence(f"the gain of {name} is zero", "norm_gain", 0.0, 1.0, True),),
        counter_evidence=counter if by_design else (),
        confidence=0.5 if by_design else 1.0,
        severity=Severity.NOTE if by_design else Severity.ERROR,
        summary=f"The normalisation {name} has a gain of zero: it passes nothing on.",
        effects=tuple(
            f"{kind}@*"
            for kind in (
                "uniform_attention",
                "cut_gradient",
                "rank_collapse",
                "positions_*",
                "labels_without_signal",
                "updates_undone",
            )
        ),
    )


def _huge(name: str, gain: float, ratio: float | None, largest: float) -> Suspect:
    beside = "" if ratio is None else f", {shown(ratio)} times the median of the model"
    return Suspect(
        kind="norm_gain",
        place=name,
        evidence=(Evidence(f"the gain of {name} is {shown(gain)}{beside}", "norm_gain", gain, largest),),
        confidence=0.8,
        severity=Severity.WARNING,
        score=gain,
        summary=f"The normalisation {name} multiplies by {shown(gain)}{beside}.",
        effects=("saturated_scores@*", "half_precision_overflow@*"),
    )
