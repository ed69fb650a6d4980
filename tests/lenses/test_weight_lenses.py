"""Weight lenses on models whose weights are known."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import observations
import small_probes
from attnscope import catalogue
from attnscope.anatomy.trace import trace
from attnscope.models.gpt import Gpt
from attnscope.probe import Probe
from attnscope.readings import Reading


def measured(name: str, probe: Probe, **settings: Any) -> Reading:
    return catalogue.load("lenses", name)(**settings).measure(probe)


def traced(model: nn.Module, batch: Any) -> Probe:
    return Probe(model=model, batches=(batch,), anatomy=trace(model.eval(), batch))


def language_model(seed: int = 0, **sizes: int) -> tuple[Gpt, dict[str, torch.Tensor]]:
    torch.manual_seed(seed)
    known = {"n_tokens": 11, "n_positions": 8, "d_model": 24, "n_heads": 3, **sizes}
    return Gpt(**known), {"input_ids": torch.randint(1, 11, (2, 6))}


def test_the_spectrum_is_that_of_the_product_of_query_and_key_weights() -> None:
    model, batch = language_model()
    reading = measured("query_key_spectrum", traced(model, batch))
    for layer, block in enumerate(model.blocks):
        for head in range(3):
            rows = slice(8 * head, 8 * head + 8)
            product = block.attention.query.weight[rows].T @ block.attention.key.weight[rows]
            values = torch.linalg.svdvals(product.detach().double())
            assert reading.values[layer, head] == pytest.approx(values[:8].numpy(), rel=1e-4)
            facts = {name: reading.facts[name][layer][head] for name in reading.facts}
            assert facts["spectral_norm"] == pytest.approx(float(values[0]), rel=1e-5)
            assert facts["nuclear_norm"] == pytest.approx(float(values.sum()), rel=1e-5)
            assert facts["stable_rank"] == pytest.approx(float((values / values[0]).square().sum()), rel=1e-5)
            shares = values / values.sum()
            entropy = -float((shares[shares > 0] * shares[shares > 0].log()).sum())
            assert facts["effective_rank"] == pytest.approx(math.exp(entropy), rel=1e-4)
            assert 0 < facts["nuclear_share"] <= 1
            # An untrained head is as random as random factors are.
            assert facts["stable_rank"] == pytest.approx(facts["random"]["stable_rank"], rel=0.5)


def test_the_nuclear_norm_never_exceeds_half_the_squared_norms_and_reaches_them_when_balanced() -> None:
    model, batch = language_model()
    with torch.no_grad():
        for block in model.blocks:
            block.attention.key.weight.copy_(block.attention.query.weight)
    reading = measured("query_key_spectrum", traced(model, batch))
    assert np.array(reading.facts["nuclear_share"]) == pytest.approx(1.0, rel=1e-6)
    balance = measured("query_key_balance", traced(model, batch))
    assert balance.values == pytest.approx(0.0, abs=1e-12)
    assert np.array(balance.facts["cosine"]) == pytest.approx(1.0)


def test_balance_agrees_with_its_definition_and_names_a_zero_side() -> None:
    model, batch = language_model()
    with torch.no_grad():
        model.blocks[1].attention.key.weight.zero_()
    reading = measured("query_key_balance", traced(model, batch))
    query, key = (getattr(model.blocks[0].attention, name).weight[:8].detach() for name in ("query", "key"))
    one, other = query @ query.T, key @ key.T
    expected = float((other - one).norm() / (other.norm() + one.norm()))
    assert reading.values[0, 0] == pytest.approx(expected, rel=1e-5)
    assert reading.values[1] == pytest.approx(1.0)


def test_grouped_heads_read_the_key_of_their_group() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=11,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=16,
    )
    model = LlamaForCausalLM(config)
    probe = traced(model, {"input_ids": torch.randint(1, 11, (2, 6)), "use_cache": False})
    reading = measured("query_key_spectrum", probe)
    attention = model.model.layers[0].self_attn
    for head in range(4):
        query = attention.q_proj.weight[4 * head : 4 * head + 4].detach().double()
        key = attention.k_proj.weight[4 * (head // 2) : 4 * (head // 2) + 4].detach().double()
        assert reading.values[0, head] == pytest.approx(torch.linalg.svdvals(query.T @ key)[:4].numpy(), rel=1e-5)


class HeadsAxisInSteps(nn.Module):
    """Projections that have an axis of their own for the heads, as written for einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.W_Q, self.W_K, self.W_V = (nn.Parameter(torch.randn(3, 10, 4) / 3) for _ in range(3))
        self.W_O = nn.Parameter(torch.randn(3, 4, 10) / 3)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        query, key, value = (torch.einsum("bld,hde->bhle", states, W) for W in (self.W_Q, self.W_K, self.W_V))
        pattern = (torch.einsum("bhqe,bhke->bhqk", query, key) / 2).softmax(-1)
        return torch.einsum("bhqe,hed->bqd", pattern @ value, self.W_O)


def test_a_parameter_with_an_axis_for_the_heads_is_cut_along_it() -> None:
    torch.manual_seed(0)
    model = HeadsAxisInSteps()
    with torch.no_grad():
        model.W_O[1] = 0
    probe = traced(model, torch.randn(2, 5, 10))
    reading = measured("query_key_spectrum", probe)
    for head in range(3):
        product = (model.W_Q[head] @ model.W_K[head].T).detach().double()
        assert reading.values[0, head] == pytest.approx(torch.linalg.svdvals(product)[:4].numpy(), rel=1e-5)
    contribution = measured("head_contribution", probe)
    assert contribution.facts["dead"] == [{"layer": 0, "head": 1, "cause": "output"}]
    assert not contribution.facts["without_output"]


def test_dead_heads_are_named_with_their_cause() -> None:
    model, batch = language_model()
    first, second = (block.attention for block in model.blocks)
    with torch.no_grad():
        first.value.weight[8:16] = 0
        first.value.bias[8:16] = 0
        second.output.weight[:, :8] = 0
    reading = measured("head_contribution", traced(model, batch))
    assert reading.facts["dead"] == [
        {"layer": 0, "head": 1, "cause": "context"},
        {"layer": 1, "head": 0, "cause": "output"},
    ]
    assert reading.values[0, 1] == reading.values[1, 0] == 0
    assert reading.facts["dead_layers"] == []
    assert np.square(reading.values).mean(1) == pytest.approx(1.0)


def test_contributions_add_up_to_the_output_of_the_layer() -> None:
    """With one head left, its contribution is the norm of what the layer writes, less the bias."""
    model, batch = language_model(n_heads=3)
    attention = model.blocks[0].attention
    with torch.no_grad():
        attention.output.weight[:, 8:] = 0
        attention.output.bias.zero_()
    probe = traced(model, batch)
    written = probe.observation.attentions[0].output
    assert written is not None
    expected = float(written.double().square().sum(-1).mean().sqrt())
    assert measured("head_contribution", probe).facts["norm"][0] == pytest.approx([expected, 0, 0], rel=1e-5)


def pairs(reading: Reading) -> set[tuple[str, str, str]]:
    return {(pair["a"], pair["b"], pair["how"]) for pair in reading.facts["pairs"]}


def test_a_healthy_model_has_no_duplicates() -> None:
    for name in small_probes.MODELS:
        reading = measured("duplicate_blocks", small_probes.probe(name))
        assert not reading.values.any(), name
        assert not reading.facts["pairs"]
        assert not reading.facts["heads"]


def test_copied_and_shared_projections_are_told_apart() -> None:
    model, batch = language_model()
    with torch.no_grad():
        model.blocks[1].attention.value.weight.copy_(model.blocks[0].attention.value.weight)
    model.blocks[0].attention.key = model.blocks[0].attention.query
    reading = measured("duplicate_blocks", traced(model, batch))
    assert ("L0.V", "L1.V", "equal values") in pairs(reading)
    assert any({a, b} == {"L0.Q", "L0.K"} and how == "same parameter" for a, b, how in pairs(reading))
    assert not reading.facts["layers_alike"]


def test_copied_heads_are_found_inside_a_projection() -> None:
    model, batch = language_model()
    with torch.no_grad():
        model.blocks[1].attention.query.weight[16:] = model.blocks[1].attention.query.weight[:8]
    reading = measured("duplicate_blocks", traced(model, batch))
    assert [(pair["a"], pair["b"]) for pair in reading.facts["heads"]] == [("L1H0.Q", "L1H2.Q")]
    assert not reading.facts["pairs"]


def test_shared_layers_are_told_as_whole_layers() -> None:
    model, batch = language_model()
    model.blocks[1] = model.blocks[0]
    reading = measured("duplicate_blocks", traced(model, batch))
    assert reading.facts["layers_alike"] == [{"layers": [0, 1], "how": "same parameter"}]
    model, batch = language_model()
    model.blocks[1] = copy.deepcopy(model.blocks[0])
    reading = measured("duplicate_blocks", traced(model, batch))
    assert reading.facts["layers_alike"] == [{"layers": [0, 1], "how": "equal values"}]


def test_tied_embeddings_are_listed_and_are_no_pair() -> None:
    model, batch = language_model()
    model.head.weight = model.tokens.weight
    reading = measured("duplicate_blocks", traced(model, batch))
    assert sorted(reading.facts["tied"][0]) == ["head.weight", "tokens.weight"]
    assert not reading.facts["pairs"]


def test_zero_and_constant_blocks_are_named_whole_or_by_head() -> None:
    model, batch = language_model()
    with torch.no_grad():
        model.blocks[0].attention.value.weight.zero_()
        model.blocks[1].attention.query.weight[:8].zero_()
        model.blocks[1].attention.output.weight.fill_(0.5)
        model.tokens.weight[0] = 0
    reading = measured("zero_blocks", traced(model, batch))
    zero = set(reading.facts["zero"])
    assert {"L0.V", "L0H0.V", "L0H1.V", "L0H2.V", "L1H0.Q"} == zero
    assert {"block": "L1.O", "value": 0.5} in reading.facts["constant"]
    assert reading.at(block="L0.V") == 1
    assert reading.at(block="L1.Q") == pytest.approx(1 / 3)
    embedding = next(block.name for block in traced(model, batch).anatomy.blocks if block.role == "embedding")
    assert reading.facts["zero_rows"][embedding] == 1


def test_untouched_blocks_look_initial_and_trained_ones_do_not() -> None:
    model, batch = language_model(d_model=48)
    fresh = measured("initial_blocks", traced(model, batch))
    assert set(fresh.facts["initial"]) == set(map(str, fresh.labels("block")))
    optimizer = torch.optim.Adam(
        [parameter for name, parameter in model.named_parameters() if "0.attention.key" not in name], lr=3e-3
    )
    tokens = torch.randint(1, 11, (16, 8))
    for _ in range(60):
        optimizer.zero_grad()
        small_probes.next_token(model(tokens), {"input_ids": tokens}).backward()
        optimizer.step()
    trained = measured("initial_blocks", traced(model, batch))
    assert "L0.K" in trained.facts["initial"]
    moved = {"L0.Q", "L0.V", "L0.O", "L1.Q", "L1.K", "L1.V", "L1.O"}
    assert not moved & set(trained.facts["initial"])
    assert trained.at(block="L0.K") == fresh.at(block="L0.K")


class OffsetNorm(nn.Module):
    """A normalisation whose gain is stored as an offset from one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return states * torch.rsqrt(states.square().mean(-1, keepdim=True) + 1e-6) * (1 + self.weight)


@pytest.mark.parametrize("width", [24, 27])
def test_gains_are_measured_however_they_are_stored(width: int) -> None:
    model, batch = language_model(d_model=width)
    with torch.no_grad():
        model.norm.weight.copy_(torch.linspace(-2, 2, width))
        model.blocks[0].norm_mlp.weight.zero_()
    model.blocks[1].norm_mlp = OffsetNorm(width)
    reading = measured("norm_gain", traced(model, batch))
    gains = {str(name): value for name, value in zip(reading.labels("block"), reading.values, strict=True)}
    how = dict(zip(map(str, reading.labels("block")), reading.facts["how"], strict=True))
    final = next(name for name in gains if name.startswith("norm"))
    expected = float(torch.linspace(-2, 2, width).square().mean().sqrt())
    assert gains[final] == pytest.approx(expected, rel=1e-4)
    dead = next(name for name in gains if "blocks.0.norm_mlp" in name)
    assert gains[dead] == 0
    offset = next(name for name in gains if "blocks.1.norm_mlp" in name)
    assert (gains[offset], how[offset]) == (pytest.approx(1.0, rel=1e-4), "measured")


def test_weight_norms_agree_with_torch_and_name_what_is_not_finite() -> None:
    probe = observations.standard()
    named = dict(probe.model.named_parameters())
    reading = measured("weight_norms", probe)
    for index, block in enumerate(probe.anatomy.blocks):
        numbers = torch.cat([named[piece.parameter].detach().flatten() for piece in block.slices]).double()
        assert reading.values[index] == pytest.approx(float(numbers.square().mean().sqrt()))
    with torch.no_grad():
        named["layers.1.key.weight"][0, :2] = torch.nan
    reading = measured("weight_norms", probe)
    assert reading.status == "not_finite"
    assert reading.facts["not_finite"] == [{"block": "L1.K", "count": 2}]
