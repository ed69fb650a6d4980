"""The small attention model of `reference.curvature_cases` at three moments of training."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from attnscope.anatomy.blocks import Block
from attnscope.undisturbed import undisturbed
from reference.curvature_cases import TinyAttention, tiny_batch, tiny_blocks, tiny_loss


@dataclass
class Moments:
    model: nn.Module
    batch: Any
    loss: Any
    blocks: tuple[Block, ...]


def trained(steps: int) -> nn.Module:
    torch.manual_seed(3)
    model = TinyAttention()
    with undisturbed(nn.Module(), seed=1):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(steps):
            optimizer.zero_grad()
            tiny_loss(model, tiny_batch()).backward()
            optimizer.step()
    return model


_TRAINED: dict[str, nn.Module] = {}


@pytest.fixture(params=["start", "middle", "converged"])
def moment(request) -> Moments:
    """Start, mid-training and converged, where terms cancel most."""
    if request.param not in _TRAINED:
        _TRAINED[request.param] = trained({"start": 0, "middle": 40, "converged": 600}[request.param])
    model = copy.deepcopy(_TRAINED[request.param])
    return Moments(model, tiny_batch(), tiny_loss, tiny_blocks(model))


@pytest.fixture
def tiny() -> Moments:
    """The model in mid-training."""
    if "middle" not in _TRAINED:
        _TRAINED["middle"] = trained(40)
    model = copy.deepcopy(_TRAINED["middle"])
    return Moments(model, tiny_batch(), tiny_loss, tiny_blocks(model))
