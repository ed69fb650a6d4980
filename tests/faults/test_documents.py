"""Mistakes of a hierarchical network for documents: three steps later they are still there."""

from __future__ import annotations

import pytest
import torch

from attnscope import catalogue
from attnscope.anatomy.observe import observe
from attnscope.case import Case, default_forward
from attnscope.faults import anatomy_of
from small_cases import gradients_of, output_of, planted, train, untrained

PREFIX = ("word", "sentence")
LEVELS = (0, 1)


def attended(case: Case, layer: int):  # type: ignore[no-untyped-def]
    found = observe(case.model, next(iter(case.batches)), anatomy=anatomy_of(case), forward=default_forward)
    return found.attentions[layer]


@pytest.mark.parametrize("layer", LEVELS)
def test_a_redrawn_context_keeps_nothing_of_training(layer: int) -> None:
    case, healthy, _ = planted("redrawn_query", "han", layer=layer)
    name = f"{PREFIX[layer]}_attention.context"
    before = case.model.get_parameter(name).detach().clone()
    train(case, 1)
    after = case.model.get_parameter(name).detach()
    moved = (after - before).norm() / before.norm()
    assert moved > 0.5  # a step of AdamW at 3e-3 moves a number by at most about 3e-3
    assert torch.allclose(after.std(), healthy.model.get_parameter(name).detach().std(), rtol=0.8)


@pytest.mark.parametrize("layer", LEVELS)
def test_without_the_activation_scores_have_no_bound(layer: int) -> None:
    case, healthy, _ = planted("activation_removed", "han", layer=layer)
    for each in (case, healthy):
        each.model.get_parameter(f"{PREFIX[layer]}_attention.weight.weight").data.mul_(1000)

    def beyond_the_bound(each: Case) -> float:
        scores = attended(each, layer).scores
        bound = each.model.get_parameter(f"{PREFIX[layer]}_attention.context").detach().abs().sum()
        return float(scores[scores > -1e8].abs().max() / bound)

    assert beyond_the_bound(healthy) <= 1.001
    assert beyond_the_bound(case) > 10


@pytest.mark.parametrize("layer", LEVELS)
def test_shifted_weights_read_the_neighbour(layer: int) -> None:
    case, _, _ = planted("shifted_weights", "han", layer=layer)
    healthy = untrained("han")
    healthy.model.load_state_dict(case.model.state_dict())
    attention = healthy.model.get_submodule(f"{PREFIX[layer]}_attention")

    def forward(self, hidden, real):  # type: ignore[no-untyped-def]
        scores = torch.tanh(self.weight(hidden)) @ self.context
        pattern = torch.softmax(scores.masked_fill(~real, -1e9), dim=1)
        return (pattern.unsqueeze(-1) * hidden.roll(1, dims=1)).sum(dim=1)

    attention.forward = forward.__get__(attention)
    assert torch.allclose(output_of(case), output_of(healthy), atol=1e-6)


@pytest.mark.parametrize("layer", LEVELS)
def test_a_dropped_direction_gets_no_gradient(layer: int) -> None:
    case, healthy, fault = planted("direction_dropped", "han", layer=layer)
    assert fault.label(healthy).places == (f"{PREFIX[layer]}_gru",)
    for name, gradient in gradients_of(case).items():
        if name.startswith(f"{PREFIX[layer]}_gru") and name.endswith("_reverse"):
            assert gradient is not None
            assert not gradient.any()
    name = f"{PREFIX[layer]}_gru.weight_hh_l0_reverse"
    reverse = gradients_of(healthy)[name]
    assert reverse is not None
    assert reverse.any()


@pytest.mark.parametrize("layer", LEVELS)
def test_misaligned_states_are_those_of_the_other_end(layer: int) -> None:
    case, _, _ = planted("states_misaligned", "han", layer=layer)
    module = case.model.get_submodule(f"{PREFIX[layer]}_gru")
    states = torch.randn(2, 5, module.input_size)
    right = torch.nn.GRU.forward(module, states)[0]
    wrong = module(states)[0]
    width = module.hidden_size
    assert torch.equal(wrong[..., :width], right[..., :width])
    assert torch.equal(wrong[..., width:], right[..., width:].flip(1))


def test_tied_encoders_stay_one() -> None:
    case, healthy, _ = planted("tied_encoders", "han")
    shared = [
        name for name, each in case.model.word_gru.named_parameters() if each is getattr(case.model.sentence_gru, name)
    ]
    assert {name.split("_l0")[0] for name in shared} == {"weight_hh", "bias_ih", "bias_hh"}
    one, two = case.model.word_gru.weight_hh_l0, case.model.sentence_gru.weight_hh_l0
    assert torch.equal(one, two)
    assert not torch.equal(healthy.model.word_gru.weight_hh_l0, healthy.model.sentence_gru.weight_hh_l0)
    hidden = torch.randn(2, 5, case.model.sentence_gru.input_size)
    before = case.model.sentence_gru(hidden)[0]
    case.model.word_gru.weight_hh_l0.data.zero_()
    assert not torch.equal(before, case.model.sentence_gru(hidden)[0])  # it computes with the shared weights


@pytest.mark.parametrize("layer", LEVELS)
def test_a_bypassed_attention_takes_the_mean(layer: int) -> None:
    case, _, _ = planted("attention_bypassed", "han", layer=layer)
    tensors = attended(case, layer)
    for row in tensors.pattern.flatten(0, -2):
        used = row[row > 0]
        assert torch.allclose(used, torch.full_like(used, 1 / len(used)))
    for name, gradient in gradients_of(case).items():
        if name.startswith(f"{PREFIX[layer]}_attention"):
            assert gradient is None or not gradient.any()


@pytest.mark.parametrize(("role", "frozen"), [
    ("layer", {"sentence_attention.context", "sentence_attention.weight.weight", "sentence_attention.weight.bias"}),
    ("key", {"sentence_attention.weight.weight", "sentence_attention.weight.bias"}),
    ("encoder", {name for name in dict(untrained("han").model.named_parameters()) if name.startswith("sentence_gru")}),
])
def test_a_frozen_block_stays_and_the_rest_moves(role: str, frozen: set[str]) -> None:
    before = dict(untrained("han").model.named_parameters())
    case, _, _ = planted("frozen_block", "han", layer=1, role=role)
    for name, each in case.model.named_parameters():
        assert torch.equal(each, before[name]) == (name in frozen), name


@pytest.mark.parametrize("layer", LEVELS)
@pytest.mark.parametrize(("name", "factor"), [("sharpened_scores", 10.0), ("uniform_attention", 0.1)])
def test_a_temperature_stays(name: str, factor: float, layer: int) -> None:
    strength = 1.0 if factor > 1 else 0.9
    case, _, _ = planted(name, "han", layer=layer, strength=strength)
    healthy = untrained("han")
    healthy.model.load_state_dict(case.model.state_dict())
    wrong, right = attended(case, layer).scores, attended(healthy, layer).scores
    allowed = right > -1e8
    assert torch.allclose(wrong[allowed], factor * right[allowed], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("layer", LEVELS)
def test_padding_is_attended_at_both_levels(layer: int) -> None:
    case, _, _ = planted("padding_attended", "han", layer=layer)
    tokens = next(iter(case.batches))[0]
    padded = (tokens == 0).flatten(0, 1) if layer == 0 else ~(tokens != 0).any(-1)
    padded = padded & ~padded.all(-1, keepdim=True)  # a row of padding alone has nothing better to look at
    assert padded.any()
    assert float(attended(case, layer).pattern.flatten(0, -2)[padded].min()) > 0
    assert not attended(untrained("han"), layer).pattern.flatten(0, -2)[padded].any()


@pytest.mark.parametrize("layer", LEVELS)
def test_the_wrong_axis_mixes_examples(layer: int) -> None:
    case, _, _ = planted("softmax_wrong_axis", "han", layer=layer)
    tokens, labels = next(iter(case.batches))
    whole = output_of(case)
    alone = Case(case.model, [(tokens[:1], labels[:1])])
    assert not torch.allclose(whole[:1], output_of(alone), atol=1e-5)
    healthy = untrained("han")
    assert torch.allclose(output_of(healthy)[:1], output_of(Case(healthy.model, [(tokens[:1], labels[:1])])), atol=1e-5)


def test_cutting_the_key_of_a_scoring_network_spares_the_context() -> None:
    case = catalogue.load("faults", "cut_gradient")().inject(untrained("han"))
    gradients = gradients_of(case)
    weight, context = gradients["word_attention.weight.weight"], gradients["word_attention.context"]
    assert weight is None or not weight.any()
    assert context is not None
    assert context.any()
