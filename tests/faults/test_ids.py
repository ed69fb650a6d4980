"""Every mistake of the benchmark's lists for documents, videos and encoders has a fault that is planted there."""

from __future__ import annotations

import pytest

from attnscope import catalogue
from small_cases import untrained

DOCUMENTS = tuple(f"H{number}" for number in range(1, 13))  # H13 is about embeddings
VIDEOS = tuple(f"V{number}" for number in range(1, 14))
ENCODERS = tuple(f"D{number}" for number in range(1, 11))
WHERE = dict.fromkeys(DOCUMENTS, "han") | dict.fromkeys(VIDEOS, "conv3d_attention") | dict.fromkeys(ENCODERS, "encoder")
NOT_THERE = {"V7": "no mask"}  # the videos of this model all have the same length


def faults_with(one: str) -> list[str]:
    return [name for name in catalogue.names("faults") if one in catalogue.load("faults", name).ids]


@pytest.mark.parametrize("one", WHERE)
def test_a_fault_has_the_id_and_applies(one: str) -> None:
    found = faults_with(one)
    assert found
    for name in found:
        reason = catalogue.load("faults", name)().applies_to(untrained(WHERE[one]))
        if one in NOT_THERE:
            assert NOT_THERE[one] in reason
        else:
            assert not reason, name


@pytest.mark.parametrize("one", DOCUMENTS)
def test_a_mistake_of_one_level_can_be_made_at_the_other(one: str) -> None:
    for name in faults_with(one):
        if catalogue.load("faults", name).layered:
            assert not catalogue.load("faults", name)(layer=1).applies_to(untrained("han")), name
