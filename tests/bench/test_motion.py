"""The moving digits cannot be told without time: out of order, or standing still, their direction is a guess."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attnscope import catalogue

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained() -> tuple[object, torch.nn.Module]:
    subject = catalogue.load("subjects", "conv3d_digits")()
    if reason := subject.unavailable():
        pytest.skip(reason)
    case = subject.case()
    subject.trained(case)
    return subject, case.model.eval()


def shuffled(video: Tensor) -> Tensor:
    """Every video's frames in a random order of its own."""
    random = torch.Generator().manual_seed(1)
    orders = torch.stack([torch.randperm(video.shape[2], generator=random) for _ in video])
    return torch.stack([each[:, order] for each, order in zip(video, orders, strict=True)])


def still(video: Tensor) -> Tensor:
    """The first frame, at every time."""
    return video[:, :, :1].expand_as(video)


@torch.no_grad()
def right(trained: tuple, change) -> tuple[float, float]:  # type: ignore[type-arg, no-untyped-def]
    """The share of digits and of directions that are named rightly."""
    subject, model = trained
    found = []
    for number in range(subject.n_held_out):
        video, classes = subject.held_out(number)
        named = model(change(video)).argmax(-1)
        found.append(torch.stack([named % 10 == classes % 10, named // 10 == classes // 10]))
    digit, direction = torch.cat(found, dim=1).float().mean(dim=1).tolist()
    return digit, direction


def test_in_order_the_direction_is_seen(trained: tuple) -> None:  # type: ignore[type-arg]
    digit, direction = right(trained, lambda video: video)
    assert direction > 0.95
    assert digit > 0.85


@pytest.mark.parametrize("change", [shuffled, still])
def test_without_time_the_direction_is_a_guess(trained: tuple, change) -> None:  # type: ignore[type-arg, no-untyped-def]
    _, direction = right(trained, change)
    assert 0.43 < direction < 0.57  # 448 videos: three standard deviations of a fair coin are 0.07
