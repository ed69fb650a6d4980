"""scikit-learn's handwritten digits: real ones, 8 x 8, scaled to 0 to 1, split into training and testing."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import torch

from attnscope.bench.subjects._tables import Table, split

SIDE = 8
N_DIGITS = 10


@cache
def digits(n_held_out: int) -> tuple[Table, Table]:
    """Images `[example, 1, 8, 8]` and which digit each shows."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    return split(images[order], torch.tensor(data.target)[order], n_held_out)


def digits_unavailable() -> str:
    """Empty when scikit-learn is installed, else what to install."""
    if find_spec("sklearn") is None:
        return "the digits come from scikit-learn, which is not installed; run: pip install 'attnscope[bench]'"
    return ""
