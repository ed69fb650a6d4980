"""What words of real sentences do in training: which are attended to most, how pure and frequent, and two traced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from attnscope.models.bag_of_words_descent import Descent
from attnscope.studies import Claim, Curve, Part, at_least, at_most, near
from attnscope.tasks.word_bags import PADDING, WordBags, words

Array = npt.NDArray[np.float64]

TRACED_WORDS = ("powerful", "stupid", "solid", "suffers", "mess")
TRACED_SENTENCE = "a powerful sequel and one of the best films of the year"


@dataclass
class Training:
    """A run to early stopping; `scores`, `norms` `[record, word]`, norms times ||q||; `at` the records' epochs."""

    best: Descent
    last: Descent
    best_epoch: int
    epochs: int
    at: list[int]
    scores: Array
    norms: Array


def top_words(fitted: WordBags, run: Training, n: int = 100) -> npt.NDArray[np.int64]:
    """The training words of largest final score, padding left out."""
    scores = run.scores[-1].copy()
    if PADDING in fitted.vocabulary:
        scores[fitted.column(PADDING)] = -np.inf
    scores[np.asarray(fitted.counts.sum(0)).ravel() == 0] = -np.inf
    return np.argsort(scores)[::-1][:n]


def real_counts(fitted: WordBags) -> tuple[sparse.csr_matrix, Array]:
    """Counts without padding, and each sentence's number of real words."""
    counts = fitted.counts.tolil()
    if PADDING in fitted.vocabulary:
        counts[:, fitted.column(PADDING)] = 0
    kept = counts.tocsr()
    kept.eliminate_zeros()
    return kept, np.asarray(kept.sum(1)).ravel()


def words_beside(fitted: WordBags) -> Array:
    """`[word]`: mean length of the sentences with the word, less one: the identity's m on real text."""
    counts, lengths = real_counts(fitted)
    present = (counts > 0).astype(float)
    occurrences = np.asarray(present.sum(0)).ravel()
    return np.asarray((present.T @ lengths) / occurrences.clip(min=1) - 1).clip(min=1.0)


@dataclass
class Attended:
    """Per record: mean purity and mean frequency of the most attended words of some sentences."""

    purity: Array
    frequency: Array


class Words:
    """How one-sided and how frequent the words of a training split with two labels are."""

    def __init__(self, fitted: WordBags) -> None:
        self.fitted = fitted
        counts, _ = real_counts(fitted)
        self.present = (counts > 0).astype(float).tocsr()
        positive = np.asarray(self.present.T @ (fitted.labels == 1)).ravel()
        self.total = np.asarray(self.present.sum(0)).ravel().clip(min=1)
        self.purity = np.abs(2 * positive - self.total) / self.total

    def attended(self, run: Training, among: Sequence[int] | None = None) -> Attended:
        """Over the records: the word of largest score in each sentence, of all sentences or of some."""
        rows = self.present if among is None else self.present[list(among)]
        each = np.split(rows.indices, rows.indptr[1:-1])
        found = []
        for scores in run.scores:
            top = np.array([row[np.argmax(scores[row])] for row in each])
            found.append((self.purity[top].mean(), self.total[top].mean()))
        purity, frequency = np.array(found).T
        return Attended(purity, frequency)

    def sentences_with(self, word: str) -> list[int]:
        """The training sentences that hold the word."""
        return [int(row) for row in self.present[:, self.fitted.column(word)].nonzero()[0]]


def purity_part(
    fitted: WordBags, run: Training, name: str, *, place: str = "section 5, purity and frequency", traced: bool = False
) -> Part:
    """The most attended words: purity up and frequency down; for SST-2 also by the traced words, as in the figures."""
    held = Words(fitted)
    every = held.attended(run)
    first = 1  # after two steps: before them all scores are equal
    part = Part(
        claims=[
            at_least(
                f"{name}: purity of the most attended words rises (last over first)", place, 1.5,
                float(every.purity[-1] / every.purity[first]),
                f"{every.purity[first]:.2f} at epoch {run.at[first]}, {every.purity[-1]:.2f} at {run.at[-1]}",
            ),
            at_most(
                f"{name}: frequency of the most attended words falls (last over first)", place, 0.5,
                float(every.frequency[-1] / every.frequency[first]),
                f"{every.frequency[first]:.0f} sentences at epoch {run.at[first]}, "
                f"{every.frequency[-1]:.0f} at {run.at[-1]}; most {every.frequency[first:].max():.0f} at "
                f"{run.at[first + int(every.frequency[first:].argmax())]}",
            ),
        ]
    )
    if not traced:
        return part
    found = {word: held.attended(run, held.sentences_with(word)) for word in TRACED_WORDS}
    for what, label in (("purity", "mean purity"), ("frequency", "mean number of sentences")):
        figure = f"{name} {what} of the most attended words"
        part.figures[figure] = ("epoch", label)
        part.curves += [
            Curve(figure, word, run.at[first:], getattr(attended, what)[first:].tolist())
            for word, attended in {**found, "all sentences": every}.items()
        ]
    pure = {word: float(attended.purity[-1]) for word, attended in found.items()}
    rare = {word: float(attended.frequency[-1]) for word, attended in found.items()}
    began = {word: float(attended.frequency[first]) for word, attended in found.items()}
    where = "section 5, five traced words"
    part.claims += [
        at_least(
            f"{name}: least purity of the most attended words, over sentences with a traced word", where, 0.85,
            min(pure.values()), ", ".join(f"{word} {value:.2f}" for word, value in pure.items()),
        ),
        at_most(
            f"{name}: largest mean frequency of the same, last over first", where, 0.1,
            max(rare[word] / began[word] for word in found),
            ", ".join(f"{word} {began[word]:.0f} to {rare[word]:.0f}" for word in found),
        ),
    ]
    return part


def padding_claims(fitted: WordBags, run: Training, name: str, expected: float) -> list[Claim]:
    """Trainable padding: the model learns its own mask."""
    scores = run.scores[:, fitted.column(PADDING)]
    return [
        near(
            f"{name}: final score of the padding word", "released settings, an independent run", expected,
            float(scores[-1]), 0.1,
            f"largest {scores.max():.2f} at epoch {run.at[int(scores.argmax())]}: padding masks itself in the end",
        )
    ]


def traced_part(fitted: WordBags, run: Training) -> Part:
    """The traced sentence: `best` is frequent and mixed, `powerful` rarer and pure."""
    top = {fitted.vocabulary[index] for index in top_words(fitted, run)}
    columns = [fitted.column(word) for word in words(TRACED_SENTENCE)]
    weights = np.exp(run.scores[:, columns])
    place = {word: fitted.column(word) for word in ("powerful", "best")}
    share = {word: np.exp(run.scores[:, column]) / weights.sum(1) for word, column in place.items()}
    best = run.scores[:, place["best"]]
    end = run.norms[-1]
    figures = {
        "traced sentence weight": ("epoch", "attention weight among the real words"),
        "traced sentence score": ("epoch", "score"),
        "traced sentence norm": ("epoch", "||q|| ||v||"),
    }
    curves = []
    for word, column in place.items():
        curves += [
            Curve("traced sentence weight", word, run.at, share[word].tolist()),
            Curve("traced sentence score", word, run.at, run.scores[:, column].tolist()),
            Curve("traced sentence norm", word, run.at, run.norms[:, column].tolist()),
        ]
    claims = [
        at_least(
            "SST-2 FC: traced words among the hundred of largest score", "figures of five words", 5.0,
            float(len(top & set(TRACED_WORDS))), ", ".join(sorted(top & set(TRACED_WORDS))),
        ),
        near(
            "SST-2 FC: attention on 'powerful' in the traced sentence", "figure, traced sentence", 0.20,
            float(share["powerful"][-1]), 0.1, f"from {share['powerful'][0]:.3f}; padding left out of the share",
        ),
        near(
            "SST-2 FC: attention on 'best' in the traced sentence", "figure, traced sentence", 0.15,
            float(share["best"][-1]), 0.15, f"from {share['best'][0]:.3f}",
        ),
        at_most(
            "SST-2 FC: score of 'best' at the end over its peak", "traced sentence: rises, then falls", 0.8,
            float(best[-1] / best.max()),
            f"peak {best.max():.3f} at epoch {run.at[int(best.argmax())]}, end {best[-1]:.3f}",
        ),
        near("SST-2 FC: ||q|| ||v|| of 'powerful' at the end", "figure, traced sentence", 0.91,
             float(end[place["powerful"]]), 0.1),
        near("SST-2 FC: ||q|| ||v|| of 'best' at the end", "figure, traced sentence", 0.59,
             float(end[place["best"]]), 0.1),
    ]
    return Part(claims=claims, curves=curves, figures=figures)
