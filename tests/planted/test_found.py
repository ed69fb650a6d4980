"""A subset of the planted mistakes is found, first, at its place; a subset of the controls is silent.

The whole lists are run by `benchmarks/planted_faults.py` and `benchmarks/negative_controls.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from negative_controls import answered
from planting.controls import CONTROLS
from planting.everything import PLANTED
from planting.moment import training_cut_to
from planting.planted import examined

FOUND = (
    "future-leak/gpt/off-by-one",
    "padding-attended/han/mask-missing",
    "mask-after-softmax/gpt/multiplied",
    "softmax-over-the-wrong-axis/vit/over-heads",
    "scale/hf-distilbert/doubled",
    "attention-across-examples/multihead_attention/batch_first-forgotten",
    "heads-merged-without-the-transpose/vit/reshape",
    "zeroed/gpt/zeroed-query",
    "cut-gradient/gpt/key-detached",
    "left-out-of-the-optimiser/vit/attention-of-one-block",
    "residual-dropped/gpt/hidden-=-attended",
    "NaN-or-Inf/hf-distilbert/not-finite",
    "labels-unshifted/gpt/target-is-the-input",
    "balance-moves/encoder/keys-shrunk-between-steps",
    "foreign-update/rotary_decoder/key-gradient-halved-in-a-hook",
    "head-rank-collapsed/gpt/one-row-in-1-heads",
)
SILENT = (
    "families: hf-t5, eager, trained",
    "families: conv3d_attention, trained",
    "families: gated pooling, trained",
    "families: no attention, untrained",
    "W_Q c, W_K / c: gpt, c = 64",
    "LoRA: hf-distilbert",
    "bfloat16: gpt",
    "warm-up: hf-llama, three steps",
    "known start: gpt, plain descent, rate 0.2",
)


@pytest.fixture(autouse=True)
def quickly() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with training_cut_to(0.3):
        yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", FOUND)
def test_a_planted_mistake_is_found_first_and_at_its_place(name: str) -> None:
    (planted,) = [each for each in PLANTED if each.name == name]
    row = examined(planted)
    assert not row.error
    assert row.rank == 1, row
    assert row.place, row


@pytest.mark.parametrize("name", SILENT)
def test_a_healthy_model_gives_no_finding(name: str) -> None:
    (control,) = [each for each in CONTROLS if f"{each.group}: {each.name}" == name]
    row = answered(control)
    assert not row["error"], row
    assert not row["alarms"], row
