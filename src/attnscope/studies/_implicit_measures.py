"""Problems of the implicit-bias study, their starts, and how near a direction is to a max-margin solution."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from attnscope.margin import Constraints, MaxMargin, matrix_norm
from attnscope.models.softmax_attention_flow import Flow
from attnscope.tasks.token_margin import TokenMargin, TokenMarginData

Array = npt.NDArray[np.float64]
N_SEEDS = {"smoke": 2, "small": 8, "paper": 20}


def problem(task: TokenMargin) -> tuple[TokenMarginData, Flow, Constraints]:
    """Data, flow and constraints of one draw."""
    data = task.draw()
    return data, Flow(data.differences, data.queries, data.score_gap), Constraints(data.differences, data.queries)


def start(seed: int, d: int, d_e: int | None = None, scale: float = 0.03) -> tuple[Array, Array]:
    """Gaussian (K, Q) with standard deviation scale / sqrt(d)."""
    draw = np.random.default_rng(10_000 + seed)
    shape = (d, d if d_e is None else d_e)
    return draw.normal(size=shape) * scale / d**0.5, draw.normal(size=shape) * scale / d**0.5


def ratio(weights: Array, constraints: Constraints, best: MaxMargin) -> float:
    """||W / margin|| over the least such norm: at least 1, and 1 in the limit of a bias to that norm."""
    return matrix_norm(weights / constraints.margins(weights).min(), best.norm) / best.value


def effective_rank(weights: Array) -> float:
    """Exp of the entropy of the normalised singular values (Roy and Vetterli, 2007)."""
    values = np.linalg.svd(weights, compute_uv=False)
    share = values / values.sum()
    return float(np.exp(-(share * np.log(share.clip(min=1e-300))).sum()))
