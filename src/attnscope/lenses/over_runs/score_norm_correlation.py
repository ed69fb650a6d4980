"""Whether each token's score and value norm moved together over a run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np

from attnscope.lenses import RunLens
from attnscope.readings import Reading
from attnscope.record import Run


@dataclass(frozen=True)
class ScoreNormCorrelation(RunLens):
    """Whether the score and the value norm of each token type moved together over the run.

    **Measures** per attention and token type, Pearson's correlation over the recorded steps between
    `token_score` and `token_value_norm` (unit 1).

    **Reading it** near 1 for the words that a model learns to attend to, when score and embedding promote each
    other: about 0.97 for the hundred words of largest score in a bag of words trained on reviews. Tokens that
    do not matter are anywhere.

    **Shapes** [layer, token]; NaN where one of the two did not move, or was seen at fewer than `fewest` steps.
    Facts: `median` per layer over all tokens, and `median_of_top` over those whose last score is at least half of
    the largest.

    **Cost** none: it reads the record.

    **Reference** Lu, Mao, Nayak 2021, On the Dynamics of Training Attention Models, arXiv:2011.10036.
    """

    fewest: int = 4

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("layer", "token")
    needs: ClassVar[tuple[str, ...]] = ("token_score", "token_value_norm")

    def measure(self, run: Run) -> Reading:
        """The correlation of each token type."""
        why_not = self.applies_to(run)
        if why_not:
            return self.not_applicable(why_not)
        scores, norms = run.series("token_score"), run.series("token_value_norm")
        if not scores.ok or not norms.ok:
            return self.not_applicable(scores.note or norms.note or "the recorded numbers are not finite")
        tokens = [token for token in scores.labels("token") if token in set(norms.labels("token"))]
        steps = [step for step in scores.labels("step") if step in set(norms.labels("step"))]
        if len(steps) < self.fewest:
            return self.not_applicable(f"the run has {len(steps)} recorded steps, fewer than {self.fewest}")
        first, second = (_picked(series, steps, tokens) for series in (scores, norms))
        values = np.full(first.shape[1:], np.nan)
        for place in np.ndindex(*values.shape):
            pair = first[(slice(None), *place)], second[(slice(None), *place)]
            both = np.isfinite(pair[0]) & np.isfinite(pair[1])
            one, other = pair[0][both], pair[1][both]
            if both.sum() >= self.fewest and np.ptp(one) > 0 and np.ptp(other) > 0:
                values[place] = np.corrcoef(one, other)[0, 1]
        return Reading(
            self.name, values, self.dims, self.unit,
            {"layer": scores.labels("layer"), "token": tuple(tokens)}, settings=asdict(self),
            facts={
                "median": [_median(row) for row in values],
                "median_of_top": [_median(row[_top(last)]) for row, last in zip(values, first[-1], strict=True)],
            },
        )


def _picked(series: Reading, steps: list[str | int | float], tokens: list[str | int | float]) -> np.ndarray:
    rows = [series.labels("step").index(step) for step in steps]
    columns = [series.labels("token").index(token) for token in tokens]
    return np.asarray(series.values[np.ix_(rows, range(series.values.shape[1]), columns)])


def _top(last: np.ndarray) -> np.ndarray:
    """Which types ended with at least half of the largest score; none when none is positive."""
    finite = np.nan_to_num(last, nan=-np.inf)
    return np.asarray(finite >= max(0.5 * float(finite.max()), 1e-12)) if finite.size else finite.astype(bool)


def _median(values: np.ndarray) -> float | None:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else None
