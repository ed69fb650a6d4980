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
    """

    optimal: Array
    others: Array
    queries: Array
    score_gap: float

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
        kind: `general` (unit Gaussian tokens and queries) or `aligned` (assumption 4: orthogonal optimal
            tokens and queries, other tokens in pairs c x_opt +- e).
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
        if min(self.n_samples, self.n_tokens - 1, self.d) < 1:
            raise CaseError("TokenMargin needs a sample, two tokens and one dimension at least")
        if self.kind == "general":
            return self._general()
        if self.kind == "aligned":
            return self._aligned()
        raise CaseError(f"kind must be one of {', '.join(KINDS)}, found {self.kind!r}")

    def _general(self) -> TokenMarginData:
        draw = np.random.default_rng(self.seed)
        tokens = _unit(draw.normal(size=(self.n_samples, self.n_tokens, self.d)))
        queries = _unit(draw.normal(size=(self.n_samples, self.d)))
        return TokenMarginData(tokens[:, 0], tokens[:, 1:], queries, self.score_gap)

    def _aligned(self) -> TokenMarginData:
        if self.n_tokens % 2 == 0 or self.n_samples > self.d or self.d < 2:
            raise CaseError("aligned data need an odd number of tokens and at most d samples, with d at least 2")
        draw = np.random.default_rng(self.seed)
        frame_x = np.linalg.qr(draw.normal(size=(self.d, self.d)))[0][:, : self.n_samples].T
        optimal = frame_x * draw.uniform(0.7, 1.5, size=(self.n_samples, 1))
        signs = draw.choice([-1.0, 1.0], size=(self.n_samples, 1))
        queries = signs * frame_x * draw.uniform(0.7, 1.5, size=(self.n_samples, 1))
        others = np.empty((self.n_samples, self.n_tokens - 1, self.d))
        for sample in range(self.n_samples):
            direction = frame_x[sample]
            for pair in range((self.n_tokens - 1) // 2):
                extra = draw.normal(size=self.d)
                extra -= (extra @ direction) * direction
                centre = draw.uniform(-0.8, 0.6) * optimal[sample]
                others[sample, 2 * pair], others[sample, 2 * pair + 1] = centre + extra, centre - extra
        return TokenMarginData(optimal, others, queries, self.score_gap)


def aligned_nuclear_norm(data: TokenMarginData) -> float:
    """The nuclear (and, up to the vector norm, every) max-margin value in closed form, on aligned data.

    Entry i of the diagonal solution is 1 / (min_l |<x_opt - x_il, x_opt/|x_opt|>| |z_i|).
    """
    unit = _unit(data.optimal)
    gaps = np.abs(np.einsum("ild,id->il", data.differences, unit)).min(1)
    return float((1 / (gaps * np.linalg.norm(data.queries, axis=1))).sum())


def _unit(rows: Array) -> Array:
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True))
