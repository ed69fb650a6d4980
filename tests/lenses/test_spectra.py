"""Spectra of heads' products and of their changes, against the dense matrices that are never formed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from attnscope import catalogue
from attnscope.anatomy.trace import trace
from attnscope.anatomy.unwrap import unwrapped
from attnscope.models.gpt import Gpt
from attnscope.probe import Probe
from attnscope.readings import NOT_APPLICABLE, OK, Reading
from attnscope.start import start_of


def measured(name: str, probe: Probe) -> Reading:
    return catalogue.load("lenses", name)().measure(probe)


def moved_model(size: float = 0.01) -> tuple[Gpt, Probe]:
    """A model whose weights have moved since its start, except head 1 of layer 0."""
    torch.manual_seed(0)
    model = Gpt(n_tokens=11, n_positions=8, d_model=24, n_heads=3)
    batch = {"input_ids": torch.randint(1, 11, (2, 6))}
    probe = Probe(model=model, batches=(batch,), anatomy=trace(model.eval(), batch), start=start_of(model))
    with torch.no_grad():
        for layer, block in enumerate(model.blocks):
            for name in ("query", "key", "value", "output"):
                weight = getattr(block.attention, name).weight
                change = size * torch.randn(weight.shape)
                if layer == 0:
                    (change.T if name == "output" else change)[8:16] = 0
                weight += change
    return model, probe


def dense(held: dict[str, torch.Tensor], layer: int, head: int, roles: tuple[str, str]) -> torch.Tensor:
    """W_left^T W_right of one head, d_model x d_model."""
    rows = slice(8 * head, 8 * head + 8)
    left, right = (held[f"blocks.{layer}.attention.{role}.weight"].double() for role in roles)
    return left[rows].T @ (right[:, rows].T if roles[1] == "output" else right[rows])


@pytest.mark.parametrize(
    ("name", "roles"),
    [
        ("query_key_spectrum", ("query", "key")),
        ("value_output_spectrum", ("value", "output")),
        ("query_key_change", ("query", "key")),
        ("value_output_change", ("value", "output")),
    ],
)
@pytest.mark.parametrize("size", [1e-5, 0.3])
def test_the_spectrum_is_that_of_the_dense_matrix(name: str, roles: tuple[str, str], size: float) -> None:
    model, probe = moved_model(size)
    reading = measured(name, probe)
    now, start = dict(model.state_dict()), dict(probe.start or {})
    for layer in range(2):
        for head in range(3):
            wanted = dense(now, layer, head, roles)
            if name.endswith("change"):
                wanted = wanted - dense(start, layer, head, roles)
            values = torch.linalg.svdvals(wanted)[: reading.values.shape[2]].numpy()
            assert reading.values[layer, head] == pytest.approx(values, rel=1e-6, abs=1e-9 * size)
            facts = {key: reading.facts[key][layer][head] for key in ("nuclear_norm", "stable_rank")}
            assert facts["nuclear_norm"] == pytest.approx(values.sum(), rel=1e-6)
            if values[0]:
                assert facts["stable_rank"] == pytest.approx(((values / values[0]) ** 2).sum(), rel=1e-6)


def test_a_head_that_has_not_moved_has_no_change_at_all() -> None:
    _, probe = moved_model()
    for name in ("query_key_change", "value_output_change"):
        reading = measured(name, probe)
        assert (reading.values[0, 1] == 0).all()
        assert reading.facts["stable_rank"][0][1] == 0
        assert (reading.values[1].max(-1) > 0).all()


def test_a_random_change_looks_like_its_random_twin_and_one_direction_does_not() -> None:
    model, probe = moved_model(0.02)
    reading = measured("query_key_change", probe)
    mine, twin = reading.facts["stable_rank"][1][0], reading.facts["random"][1][0]["stable_rank"]
    assert mine == pytest.approx(twin, rel=0.5)
    with torch.no_grad():
        weight = model.blocks[1].attention.query.weight
        weight.copy_(dict(probe.start or {})["blocks.1.attention.query.weight"])
        key = model.blocks[1].attention.key.weight
        key.copy_(dict(probe.start or {})["blocks.1.attention.key.weight"])
        weight[:8] += torch.outer(torch.randn(8), torch.randn(24))
    one = measured("query_key_change", probe)
    assert one.facts["stable_rank"][1][0] == pytest.approx(1.0, rel=1e-4)
    assert one.facts["random"][1][0]["stable_rank"] > 2


def test_without_the_start_nothing_is_said_of_a_change() -> None:
    _, probe = moved_model()
    for name in ("query_key_change", "value_output_change"):
        reading = measured(name, replace(probe, start=None))
        assert reading.status == NOT_APPLICABLE
        assert "start" in reading.note
        partial = {key: value for key, value in (probe.start or {}).items() if "blocks.0" in key}
        known = measured(name, replace(probe, start=partial))
        assert known.status == OK
        assert np.isnan(known.values[1]).all()
        assert np.isfinite(known.values[0]).all()


def test_adapters_are_part_of_the_weights() -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    torch.manual_seed(0)
    config = DistilBertConfig(vocab_size=17, dim=12, hidden_dim=16, n_layers=1, n_heads=3, max_position_embeddings=8)
    adapted: Any = peft.get_peft_model(
        DistilBertForSequenceClassification(config), peft.LoraConfig(r=2, target_modules=["q_lin"], lora_alpha=6)
    )
    batch = {"input_ids": torch.randint(1, 17, (4, 6)), "labels": torch.tensor([0, 1, 1, 0])}
    model = unwrapped(adapted)[0].eval()
    probe = Probe(model=model, batches=(batch,), anatomy=trace(adapted, batch), start=start_of(model))
    held = dict(model.named_parameters())
    a, b = (next(value for name, value in held.items() if f"lora_{side}" in name) for side in "AB")
    with torch.no_grad():
        b.copy_(torch.randn(b.shape))
    key = next(value for name, value in held.items() if name.endswith("k_lin.weight"))
    reading = measured("query_key_change", probe)
    change = 3 * (b @ a).detach().double()  # lora_alpha / r
    for head in range(3):
        rows = slice(4 * head, 4 * head + 4)
        wanted = torch.linalg.svdvals(change[rows].T @ key[rows].detach().double())[:8]
        assert reading.values[0, head] == pytest.approx(wanted.numpy(), rel=1e-4, abs=1e-6)


class NotANumber(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.attention(states, states, states)[0]


def test_a_head_that_is_not_finite_is_named() -> None:
    model = NotANumber().eval()
    states = torch.randn(2, 3, 8)
    probe = Probe(model=model, batches=(states,), anatomy=trace(model, states), start=start_of(model))
    with torch.no_grad():
        model.attention.in_proj_weight[13, 0] = torch.nan
    for name in ("query_key_spectrum", "query_key_change"):
        reading = measured(name, probe)
        assert reading.status == "not_finite"
        assert "L0H1" in reading.note
