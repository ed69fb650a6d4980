"""Figures of the synthetic dynamics beside loss and identity: histograms at the last epoch, a traced topic word."""

from __future__ import annotations

import numpy as np

from attnscope.models.bag_of_words_descent import Descent
from attnscope.studies import Curve, Part
from attnscope.studies._score_norm import Recorded

N_BINS = 10


def histograms(head: str, descent: Descent, n_topic_words: int) -> Part:
    """Norms and scores of topic words (the first of the vocabulary) and of the others, as in the authors' figures."""
    norms = descent.norms() * float(np.linalg.norm(descent.query))
    part = Part()
    for kind, chosen in (("topic words", slice(None, n_topic_words)), ("other words", slice(n_topic_words, None))):
        for what, values in (("norm", norms[chosen]), ("score", descent.scores[chosen])):
            figure = f"histogram {what} of {kind}"
            counts, edges = np.histogram(values, bins=N_BINS)
            part.figures[figure] = ("||q|| ||v||" if what == "norm" else "score", "words")
            part.curves.append(Curve(figure, head, *_steps(counts, edges)))
    return part


def _steps(counts: np.ndarray, edges: np.ndarray) -> tuple[list[float], list[float]]:
    """The outline of a histogram."""
    x = np.repeat(edges, 2)
    y = np.concatenate([[0.0], np.repeat(counts.astype(float), 2), [0.0]])
    return x.tolist(), y.tolist()


def traced_word(head: str, arm: str, run: Recorded) -> Part:
    """Score and norm of the first topic word over the epochs of an ablation."""
    epochs = list(range(0, len(run.scores) * run.every, run.every))
    part = Part()
    for what, values in (("score", run.scores[:, 0]), ("norm", run.norms[:, 0])):
        figure = f"ablation {head} {what}"
        part.figures[figure] = ("epoch", "||q|| ||v||" if what == "norm" else "score")
        part.curves.append(Curve(figure, arm, epochs[::5], values[::5].tolist()))
    return part
