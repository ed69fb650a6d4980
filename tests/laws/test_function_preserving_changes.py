"""What leaves the function as it is leaves every lens of patterns and scores as it is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import small_probes
from attnscope import catalogue
from attnscope.anatomy.trace import trace
from attnscope.probe import Probe

LENSES = [
    name for name in catalogue.names("lenses")
    if set(catalogue.load("lenses", name).needs) <= {"pattern", "weights"}
    and "pattern" in catalogue.load("lenses", name).needs
]
PARTS = {
    "gpt": lambda model: [
        tuple(getattr(block.attention, name) for name in ("query", "key", "value", "output"))
        for block in model.blocks
    ],
    "distilbert": lambda model: [
        tuple(getattr(layer.attention, name) for name in ("q_lin", "k_lin", "v_lin", "out_lin"))
        for layer in model.distilbert.transformer.layer
    ],
}
N_HEADS, WIDTH = 3, 4


def changed(model: str, change: Callable[..., None]) -> tuple[Probe, Probe]:
    """A probe before and after every layer's projections are changed."""
    before = small_probes.probe(model)
    other = copy.deepcopy(before.model)
    with torch.no_grad():
        for layer in PARTS[model](other):
            change(*layer)
    after = replace(before, model=other, anatomy=trace(other.eval(), before.batch), optimizer=None, shared={})
    return before, after


def scale_query_and_key(factor: float) -> Callable[..., None]:
    def change(query: nn.Linear, key: nn.Linear, value: nn.Linear, output: nn.Linear) -> None:
        for module, by in ((query, factor), (key, 1 / factor)):
            module.weight *= by
            module.bias *= by

    return change


def scale_value_and_output(factor: float) -> Callable[..., None]:
    def change(query: nn.Linear, key: nn.Linear, value: nn.Linear, output: nn.Linear) -> None:
        value.weight *= factor
        value.bias *= factor
        output.weight /= factor

    return change


ORDER = torch.tensor([2, 0, 1])


def permute_heads(query: nn.Linear, key: nn.Linear, value: nn.Linear, output: nn.Linear) -> None:
    rows = (ORDER[:, None] * WIDTH + torch.arange(WIDTH)).flatten()
    for module in (query, key, value):
        module.weight.copy_(module.weight[rows].clone())
        module.bias.copy_(module.bias[rows].clone())
    output.weight.copy_(output.weight[:, rows].clone())


def plain(reading: Any) -> dict[str, Any]:
    """All of a reading except what names its heads' norms before W_O."""
    data = reading.to_dict()
    data["facts"].pop("context_norm", None)
    return data


@pytest.mark.parametrize("factor", [2.0, 8.0, 64.0, 0.125])
@pytest.mark.parametrize("change", [scale_query_and_key, scale_value_and_output])
@pytest.mark.parametrize("model", PARTS)
def test_scaling_one_side_up_and_the_other_down_changes_no_bit(
    model: str, change: Callable[[float], Callable[..., None]], factor: float
) -> None:
    """The factors are powers of two, so that not even rounding differs."""
    before, after = changed(model, change(factor))
    assert torch.equal(logits(before), logits(after))
    norms = [catalogue.load("lenses", "weight_norms")().measure(probe).values for probe in (before, after)]
    assert not np.allclose(*norms)
    for name in LENSES:
        one, other = (catalogue.load("lenses", name)().measure(probe) for probe in (before, after))
        assert plain(one) == plain(other), name


def logits(probe: Probe) -> torch.Tensor:
    output = probe.output()
    return output if isinstance(output, torch.Tensor) else output.logits


@pytest.mark.parametrize("model", PARTS)
def test_permuting_heads_permutes_the_readings(model: str) -> None:
    before, after = changed(model, permute_heads)
    assert torch.allclose(logits(before), logits(after), atol=1e-5)
    for name in LENSES:
        one, other = (catalogue.load("lenses", name)().measure(probe) for probe in (before, after))
        assert one.status == other.status
        if "head" not in one.dims or not one.ok:
            continue
        expected = np.take(one.values, ORDER.numpy(), axis=one.dims.index("head"))
        # The second layer sees the first one's rounding, which a rank or an estimate may amplify.
        assert other.values == pytest.approx(expected, rel=1e-3, abs=1e-5), name


@pytest.mark.parametrize("factor", [2.0, 64.0])
def test_the_query_key_spectrum_does_not_see_the_scale_of_either_side(factor: float) -> None:
    before, after = changed("gpt", scale_query_and_key(factor))
    spectrum = catalogue.load("lenses", "query_key_spectrum")()
    assert spectrum.measure(after).values == pytest.approx(spectrum.measure(before).values, rel=1e-9)


@pytest.mark.parametrize("model", PARTS)
def test_the_order_of_examples_does_not_matter(model: str) -> None:
    before = small_probes.probe(model)
    order = torch.tensor([2, 3, 0, 1])
    batch = {name: value[order] for name, value in before.batch.items()}
    after = replace(before, batches=(batch,), shared={})
    for name in LENSES:
        one, other = (catalogue.load("lenses", name)().measure(probe) for probe in (before, after))
        assert other.values == pytest.approx(one.values, rel=1e-4, abs=1e-6), name
