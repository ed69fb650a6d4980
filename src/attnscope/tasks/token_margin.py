"""Data for one-layer softmax attention: separable tokens, inside and outside the theorems' assumptions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attnscope.errors import CaseError

Array = npt.NDArray[np.float64]
KINDS = ("general", "aligned")


@dataclass(frozen=True)
class TokenMarginData:
    """Samples of one optimal token and L - 1 others, all others with the same score.

    Attributes:
        optimal: x_opt, `[sample, d]`.
        others: x_il, `[sample, token, d]`.
        queries: z, `[sample, d]`.
        score_gap: gamma_opt - gamma_nopt, the same for every sample.
        labels: y, +1 or -1, `[sample]`.
        head: v, `[d]`: y_i v^T x is `optimal_score` on the optimal token and that less the gap on the others.
        optimal_score: gamma_opt, the same for every sample.
    """

    optimal: Array
    others: Array
    queries: Array
    score_gap: float
    labels: Array
    head: Array
    optimal_score: float

    @property
    def differences(self) -> Array:
        """x_opt - x_il, `[sample, token, d]`."""
        return np.asarray(self.optimal[:, None] - self.others)

    @property
    def initial_loss_condition(self) -> bool:
        """Assumption 3 at W = 0: the loss starts below what any sample at its worst would give.

        n exp(-gap / L) <= 1 + (n - 1) exp(-gap), with L tokens in a sample (Sheen et al., section 3).
        """
        n, tokens = len(self.optimal), self.others.shape[1] + 1
        return bool(n * np.exp(-self.score_gap / tokens) <= 1 + (n - 1) * np.exp(-self.score_gap))


@dataclass(frozen=True)
class TokenMargin:
    """Draws the data of Sheen et al. (arXiv:2403.08699).

    Attributes:
        n_samples, n_tokens, d: sizes; `n_tokens` counts the optimal one.
        score_gap: gamma_opt - gamma_nopt (the equal-score assumption holds by construction).
        kind: `general` (Gaussian queries, and Gaussian tokens without a part along v; the optimal token also
            has y v / ||v||) or `aligned` (assumption 4: orthogonal optimal tokens and queries, other tokens in
            pairs c x_opt +- e).
        seed: of the draw.
    """

    n_samples: int = 6
    n_tokens: int = 5
    d: int = 10
    score_gap: float = 16.0
    kind: str = "general"
    seed: int = 0

    def draw(self) -> TokenMarginData:
        """The data.

        Raises:
            CaseError: sizes for which such data do not exist.
        """
        if min(self.n_samples, self.n_tokens - 1) < 1 or self.d < 2:
            raise CaseError("TokenMargin needs a sample, two tokens and two dimensions at least")
        if not (np.isfinite(self.score_gap) and self.score_gap > 0):
            raise CaseError(f"score_gap must be a positive number, found {self.score_gap!r}")
        if self.kind == "general":
            return self._general()
        if self.kind == "aligned":
            return self._aligned()
        raise CaseError(f"kind must be one of {', '.join(KINDS)}, found {self.kind!r}")

    def _general(self) -> TokenMarginData:
        draw = np.random.default_rng(self.seed)
        direction = _unit(draw.normal(size=self.d))
        tokens = draw.normal(size=(self.n_samples, self.n_tokens, self.d)) / self.d**0.5
        tokens -= (tokens @ direction)[..., None] * direction
        labels = draw.choice([-1.0, 1.0], size=self.n_samples)
        optimal = tokens[:, 0] + labels[:, None] * direction
        queries = draw.normal(size=(self.n_samples, self.d))
        head = self.score_gap * direction
        return TokenMarginData(optimal, tokens[:, 1:], queries, self.score_gap, labels, head, self.score_gap)

    def _aligned(self) -> TokenMarginData:
        if self.n_tokens % 2 == 0 or self.n_samples > self.d or self.d < 3:
            raise CaseError("aligned data need an odd number of tokens and at most d samples, with d at least 3")
        draw = np.random.default_rng(self.seed)
        frame = np.linalg.qr(draw.normal(size=(self.d, self.d)))[0][:, : self.n_samples].T
        sizes, lengths = draw.uniform(0.7, 1.5, size=(2, self.n_samples, 1))
        optimal, labels = frame * sizes, draw.choice([-1.0, 1.0], size=self.n_samples)
        queries = draw.choice([-1.0, 1.0], size=(self.n_samples, 1)) * frame * lengths
        # One c for all samples, and e across the head: then every other token has one and the same score.
        share = draw.uniform(-0.8, 0.6)
        score = self.score_gap / (1 - share)
        head = np.asarray((labels[:, None] * score / sizes * frame).sum(0))
        others = np.empty((self.n_samples, self.n_tokens - 1, self.d))
        for sample in range(self.n_samples):
            blind, _ = np.linalg.qr(np.stack([frame[sample], head], axis=1))
            for pair in range((self.n_tokens - 1) // 2):
                extra = draw.normal(size=self.d)
                extra -= blind @ (blind.T @ extra)
                centre = share * optimal[sample]
                others[sample, 2 * pair], others[sample, 2 * pair + 1] = centre + extra, centre - extra
        return TokenMarginData(optimal, others, queries, self.score_gap, labels, head, float(score))


def aligned_nuclear_norm(data: TokenMarginData) -> float:
    """The nuclear (and, up to the vector norm, every) max-margin value in closed form, on aligned data.

    Entry i of the diagonal solution is 1 / (min_l |<x_opt - x_il, x_opt/|x_opt|>| |z_i|).
    """
    unit = _unit(data.optimal)
    gaps = np.abs(np.einsum("ild,id->il", data.differences, unit)).min(1)
    return float((1 / (gaps * np.linalg.norm(data.queries, axis=1))).sum())


def _unit(rows: Array) -> Array:
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True))
