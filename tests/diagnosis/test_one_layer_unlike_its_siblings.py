"""What one layer of a small decoder does otherwise than its siblings is named, there, and nothing else is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attnscope.anatomy.trace import trace
from attnscope.case import default_forward
from attnscope.examine import diagnose
from attnscope.findings import Diagnosis
from attnscope.models.gpt import Gpt

TOKENS = torch.randint(0, 11, (4, 9), generator=torch.Generator().manual_seed(3))


def decoder(n_layers: int = 3) -> Gpt:
    torch.manual_seed(0)
    return Gpt(n_tokens=11, n_positions=16, d_model=16, n_heads=4, n_layers=n_layers).eval()


def found(model: nn.Module, kind: str) -> list[str]:
    said: Diagnosis = diagnose(model, [{"input_ids": TOKENS}], loss=loss, select=[kind])
    return [finding.block_or_site for finding in said.findings]


def loss(output: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(output[:, :-1].flatten(0, 1), batch["input_ids"][:, 1:].flatten())


class TransposedLinear(nn.Linear):
    def forward(self, hidden: Tensor) -> Tensor:
        return nn.functional.linear(hidden, self.weight.T, self.bias)


def again_transposed(module: nn.Linear, args: tuple[Any, ...], output: Tensor) -> Tensor:
    return nn.functional.linear(args[0], module.weight.T, module.bias)


def replaced(linear: nn.Linear) -> TransposedLinear:
    other = TransposedLinear(linear.in_features, linear.out_features)
    other.load_state_dict(linear.state_dict())
    return other


# --- transposed_projection -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["query", "key", "value", "output"])
@pytest.mark.parametrize("layer", [0, 2])
def test_a_square_weight_that_one_layer_uses_transposed_is_named(role: str, layer: int) -> None:
    model = decoder()
    attention = model.blocks[layer].attention
    setattr(attention, role, replaced(getattr(attention, role)))
    assert found(model, "transposed_projection") == [f"L{layer}.{role[0].upper()}"]


def test_a_stack_that_stores_all_its_weights_transposed_is_healthy() -> None:
    model = decoder()
    assert found(model, "transposed_projection") == []
    for block in model.blocks:
        block.attention.output = replaced(block.attention.output)
    assert found(model, "transposed_projection") == []


def test_two_layers_do_not_tell_which_of_them_is_transposed() -> None:
    model = decoder(2)
    model.blocks[1].attention.output = replaced(model.blocks[1].attention.output)
    assert found(model, "transposed_projection") == []


def test_a_product_whose_result_nobody_reads_is_not_the_output_projection() -> None:
    model = decoder()
    model.blocks[1].attention.output.register_forward_hook(again_transposed)
    anatomy = trace(model, {"input_ids": TOKENS}, default_forward)
    assert [attention.residual for attention in anatomy.attentions] == [True, True, True]
    said = diagnose(model, [{"input_ids": TOKENS}], loss=loss, select=["CRV602", "GRD502", "PRJ320"])
    assert [finding.block_or_site for finding in said.findings] == ["L1.O"]
