"""The exact lenses on every model of the conformance test: silent where the model is sound, and only there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from attnscope.anatomy.trace import trace
from attnscope.anatomy.unwrap import unwrapped
from attnscope.errors import CaseError
from attnscope.lenses._movement import main_output
from attnscope.lenses.determinism import Determinism
from attnscope.lenses.dropout_seed import DropoutSeed
from attnscope.lenses.future_token import FutureToken
from attnscope.lenses.key_bias_gradient import KeyBiasGradient
from attnscope.lenses.non_finite import NonFinite
from attnscope.lenses.other_example import OtherExample
from attnscope.lenses.query_key_gradient_identity import QueryKeyGradientIdentity
from attnscope.lenses.value_output_gradient_identity import ValueOutputGradientIdentity
from attnscope.probe import Probe
from attnscope.readings import NOT_APPLICABLE, OK
from conformance import rows_pooled, rows_torch, rows_user, rows_zoo

ROWS = [*rows_zoo.ROWS, *rows_user.ROWS, *rows_pooled.ROWS, *rows_torch.ROWS]


def loss(output: Any, batch: Any) -> Tensor:
    """Any loss will do; this one treats no two numbers alike."""
    found = main_output(output).double()
    weight = torch.linspace(0.5, 1.5, found.numel(), dtype=torch.float64).reshape(found.shape)
    return (found * weight).square().mean() + found.sin().mean()


def normalises_keys(row: Any) -> bool:
    return all(truth.softmax_over == "keys" for truth in row.truth)


def keeps_examples_apart(row: Any) -> bool:
    return all(truth.softmax_over != "batch" and truth.head_layout != "examples mixed" for truth in row.truth)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_what_is_exact_is_exact(row: Any) -> None:
    model, batch = row.make()
    model = unwrapped(model)[0].eval()
    probe = Probe(model=model, batches=(batch,), anatomy=trace(model, batch), loss=loss)
    try:
        probe.gradients
    except CaseError as error:
        pytest.skip(f"the model cannot be differentiated: {error}")
    lenses = [QueryKeyGradientIdentity(), ValueOutputGradientIdentity(), Determinism(), DropoutSeed(), NonFinite()]
    readings = {lens.name: lens.measure(probe) for lens in [*lenses, KeyBiasGradient(), OtherExample(), FutureToken()]}
    for name, reading in readings.items():
        assert reading.status in (OK, NOT_APPLICABLE), (name, reading.note)
    for name in ("query_key_gradient_identity", "value_output_gradient_identity"):
        assert not readings[name].facts.get("violated"), (name, readings[name].values)
    assert readings["determinism"].facts["exact"]
    assert readings["dropout_seed"].facts["random_steps"] == []
    assert not readings["non_finite"].values.any()
    if readings["key_bias_gradient"].ok:
        assert bool(readings["key_bias_gradient"].facts["violated"]) is not normalises_keys(row)
    if readings["other_example"].ok:
        assert readings["other_example"].facts["violated"] is not keeps_examples_apart(row)
    causal = [truth.causal and "after" not in str(truth.masks) for truth in row.truth]
    if readings["future_token"].ok and causal and all(causal):
        assert not readings["future_token"].facts["violated"]
