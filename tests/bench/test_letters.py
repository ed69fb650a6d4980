"""What counting letters reaches on the letters of reviews: the chance that the subject states, and what beats it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attnscope import catalogue


def test_the_subject_must_do_better_than_counting() -> None:
    subject = catalogue.load("subjects", "gpt_reviews")()
    if reason := subject.unavailable():
        pytest.skip(reason)
    seen = torch.cat([subject.batch(number)["input_ids"] for number in range(400)])
    asked = torch.cat([subject.held_out(number)["input_ids"] for number in range(subject.n_held_out)])
    by_none, by_one, by_two = (guessed_right(seen, asked, n_before) for n_before in (0, 1, 2))
    assert by_none == pytest.approx(subject.chance, abs=0.01)
    assert by_one == pytest.approx(0.26, abs=0.01)
    assert by_two == pytest.approx(0.39, abs=0.02)
    assert by_one < subject.healthy_quality


def guessed_right(seen: Tensor, asked: Tensor, n_before: int) -> float:
    """The share of letters that are the most frequent ones after the letters before, as they were seen."""
    n = int(max(seen.max(), asked.max())) + 1
    counts = torch.zeros(n**n_before, n)
    counts.index_put_((context(seen, n_before, n), seen[:, 2:]), torch.ones(()), accumulate=True)
    return float((counts.argmax(1)[context(asked, n_before, n)] == asked[:, 2:]).float().mean())


def context(letters: Tensor, n_before: int, n: int) -> Tensor:
    """One number for the letters before each, from the third on."""
    length = letters.shape[1]
    parts = [letters[:, 2 - back : length - back] * n ** (back - 1) for back in range(1, n_before + 1)]
    return sum(parts, torch.zeros_like(letters[:, 2:]))
