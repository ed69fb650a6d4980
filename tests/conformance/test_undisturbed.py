"""Looking changes nothing: weights, gradients, modes, hooks, random state, attributes, kernels."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attnscope.anatomy.observe import observe
from attnscope.anatomy.trace import trace
from attnscope.case import default_forward

from .test_rows import ROWS
from .truth import Row

LOOKED_AT = {
    "einsum",
    "heads in a list",
    "softmax over queries",
    "kernel causal train",
    "HAN packed train",
    "volume cross-attention train",
    "perceiver",
    "plain CNN",
    "MultiheadAttention causal fused eval",
    "TransformerEncoder post-norm eval padded",
    "Transformer train",
    "DistilBERT eager train",
    "GPT-2 sdpa train",
    "Llama eager eval",
    "T5 sdpa eval",
    "ALBERT eager eval",
}


def state(model: nn.Module) -> dict[str, Any]:
    kept: dict[str, Any] = {f"value of {name}": value.clone() for name, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        kept[f"gradient of {name}"] = None if parameter.grad is None else parameter.grad.clone()
        kept[f"identity of {name}"] = (id(parameter), id(parameter.grad), parameter.requires_grad)
    for name, module in model.named_modules():
        kept[f"attributes of {name}"] = {
            key: (id(value), len(value) if isinstance(value, dict | list) else None)
            for key, value in module.__dict__.items()
        }
        kept[f"mode of {name}"] = module.training
    kept["torch random state"] = torch.get_rng_state().clone()
    kept["numpy random state"] = str(np.random.get_state())
    kept["python random state"] = random.getstate()
    kept["gradient mode"] = torch.is_grad_enabled()
    kept["kernels"] = (
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.cuda.math_sdp_enabled(),
        torch.backends.cuda.mem_efficient_sdp_enabled(),
        torch.backends.mha.get_fastpath_enabled(),
    )
    return kept


def same(before: Any, after: Any) -> bool:
    if isinstance(before, Tensor):
        return isinstance(after, Tensor) and torch.equal(before, after)
    return bool(before == after)


def with_gradients(row: Row) -> tuple[nn.Module, Any]:
    model, batch = row.make()
    model.train(row.train)
    for number, parameter in enumerate(model.parameters()):
        if number % 2:
            parameter.grad = torch.full_like(parameter, float(number))
        if number % 5 == 4:
            parameter.requires_grad_(False)
    return model, batch


@pytest.mark.parametrize("row", [row for row in ROWS if row.name in LOOKED_AT], ids=lambda row: row.name)
def test_trace_and_observe_change_nothing(row: Row) -> None:
    model, batch = with_gradients(row)
    before = state(model)
    anatomy = trace(model, batch)
    changed = [name for name, value in state(model).items() if not same(before[name], value)]
    assert not changed, f"trace changed {changed}"
    model.eval()  # observe looks at the model as it is; its callers put it in eval mode
    before = state(model)
    observe(model, batch, anatomy=anatomy, forward=default_forward)
    changed = [name for name, value in state(model).items() if not same(before[name], value)]
    assert not changed, f"observe changed {changed}"


def test_the_rows_looked_at_exist() -> None:
    assert {row.name for row in ROWS} >= LOOKED_AT


def test_inside_no_grad_and_inference_mode() -> None:
    model, batch = next(row for row in ROWS if row.name == "einsum").make()
    expected = trace(model, batch).attentions
    with torch.no_grad():
        assert trace(model, batch).attentions == expected
        assert not torch.is_grad_enabled()


def test_a_model_that_raises_is_left_alone() -> None:
    model, batch = next(row for row in ROWS if row.name == "einsum").make()
    before = state(model)

    def forward(model: nn.Module, batch: Any) -> Any:
        default_forward(model, batch)
        raise RuntimeError("the model's own error")

    with pytest.raises(Exception, match="the model's own error"):
        trace(model, batch, forward)
    assert [name for name, value in state(model).items() if not same(before[name], value)] == []
