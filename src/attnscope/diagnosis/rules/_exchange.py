"""Exchanges of weights that lower the loss, as the rules about swapped blocks read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from attnscope.diagnosis.rules import Examination, Severity
from attnscope.diagnosis.rules._healthy import healthy

CLEAR = (
    0.1  # an exchange must save this share of the loss, and twice what any exchange saves in a healthy model
)
BEYOND_ABLATION = 2.0  # an overfitted or unlearnt part hurts: then zeroing it helps, too, and no exchange is meant
BEYOND_OTHERS = 2.0  # a layer that hurts is helped by any exchange in it, also of projections that nobody suspects
BELOW_A_GUESS = 0.9  # an overconfident model does better with any harm done to it, but never well
LEAST = 0.05  # and this much of it: the loss of a model that has learnt its task is too small to tell


@dataclass(frozen=True)
class Saving:
    """An exchange that lowers the loss."""

    first: str
    second: str
    loss: float
    saved: float

    @property
    def severity(self) -> Severity:
        """An exchange that halves the loss is an error; a smaller saving may have other reasons."""
        return Severity.ERROR if 2 * self.saved >= self.loss else Severity.WARNING


def savings(examination: Examination, kind: str) -> Iterator[Saving]:
    """Exchanges of `roles` or `layers` that clearly lower the loss on every batch, the best first."""
    reading = examination.reading("exchanged_blocks")
    if reading is None:
        return
    loss = float(reading.facts.get("loss", float("nan")))
    if not loss > 0:
        return
    share = max(CLEAR, 2 * healthy("saved_by_exchange").highest)
    without, guess = _saved_by_ablation(examination), _loss_of_a_guess(examination)
    pairs = [(str(first), str(second)) for first, second in reading.facts["pairs"]]
    rows = list(zip(pairs, reading.facts["kinds"], reading.facts["falls_everywhere"], reading.values, strict=True))
    found = [
        Saving(*pair, loss, -float(change))
        for pair, its_kind, everywhere, change in rows
        if its_kind == kind
        and everywhere
        and -float(change) >= max(share * loss, LEAST)
        and loss + float(change) < BELOW_A_GUESS * guess
        and -float(change) >= BEYOND_ABLATION * max(_of_either(without, pair), default=0.0)
        and -float(change) >= BEYOND_OTHERS * max(_of_others(pair, rows), default=0.0)
    ]
    yield from sorted(found, key=lambda saving: -saving.saved)


def _of_others(
    pair: tuple[str, str], rows: Sequence[tuple[tuple[str, str], str, bool, float]]
) -> list[float]:
    """What exchanges of other projections in the same layer save."""
    layer = pair[0].partition(".")[0]
    return [
        -float(change)
        for other, _, _, change in rows
        if "." in pair[0] and not {*pair} & {*other} and all(each.partition(".")[0] == layer for each in other)
    ]


def _saved_by_ablation(examination: Examination) -> Mapping[str, float]:
    """Block -> how much the loss falls when the block is set to zero (negative: rises)."""
    reading = examination.reading("block_ablation")
    changes = {} if reading is None else reading.facts.get("loss_change", {})
    return {str(block): -float(change) for block, change in changes.items()}


def _of_either(saved: Mapping[str, float], pair: Sequence[object]) -> list[float]:
    """What zeroing a block of either member of an exchange saves; a member may be a block or a whole layer."""
    return [value for block, value in saved.items() if any(_is_in(block, str(each)) for each in pair)]


def _is_in(block: str, place: str) -> bool:
    return block == place or block.startswith(f"{place}.")


def _loss_of_a_guess(examination: Examination) -> float:
    """The loss of one who knows how frequent each label is and no more; infinite where labels are not classes."""
    reading = examination.reading("label_signal")
    facts = {} if reading is None else reading.facts
    classes = 1 < int(facts.get("n_distinct", 0)) < int(facts.get("n_labels", 0))
    return float(facts["entropy"]) if classes else float("inf")
