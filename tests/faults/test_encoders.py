"""Mistakes of an encoder's projections and of its optimiser: three steps later they are still there."""

from __future__ import annotations

import pytest
import torch

from attnscope import catalogue
from attnscope.faults import anatomy_of
from small_cases import gradients_of, output_of, planted, train, untrained

ATTENTION = "blocks.1.attention"


def test_stale_projections_never_move_and_are_given_moments() -> None:
    before = dict(untrained("encoder").model.named_parameters())
    case, _, _ = planted("stale_projections", "encoder", layer=1)
    for role in ("query", "key", "value"):
        weight = case.model.get_parameter(f"{ATTENTION}.{role}.weight")
        assert torch.equal(weight, before[f"{ATTENTION}.{role}.weight"])
        moments = case.optimizer.state[weight]
        assert moments["exp_avg"].any()
        assert float(moments["step"]) == 3
    output = f"{ATTENTION}.output.weight"
    assert not torch.equal(case.model.get_parameter(output), before[output])


def test_half_stale_projections_move_half_as_far() -> None:
    before = untrained("encoder").model.get_parameter(f"{ATTENTION}.value.weight").detach()
    case, healthy, _ = planted("stale_projections", "encoder", layer=1, steps=1, strength=0.5)
    moved, whole = (each.model.get_parameter(f"{ATTENTION}.value.weight").detach() - before for each in (case, healthy))
    assert torch.allclose(moved, whole / 2, atol=1e-6)


def test_a_transposed_output_is_the_transposed_matrix() -> None:
    case, healthy, _ = planted("transposed_output", "encoder", layer=1)
    healthy.model.load_state_dict(case.model.state_dict())
    weight = healthy.model.get_parameter(f"{ATTENTION}.output.weight")
    assert not torch.allclose(output_of(case), output_of(healthy), atol=1e-3)
    weight.data = weight.data.T.clone()
    assert torch.allclose(output_of(case), output_of(healthy), atol=1e-6)


def test_heads_merged_wrongly_are_seen_by_the_trace() -> None:
    case, healthy, _ = planted("heads_merged_wrongly", "encoder", layer=1)
    layouts = [attention.head_layout for attention in anatomy_of(case).attentions]
    assert layouts == ["ok", "positions mixed"]
    assert all(attention.head_layout == "ok" for attention in anatomy_of(healthy).attentions)


@pytest.mark.parametrize(("layer", "other"), [(0, 1), (1, 0)])
def test_values_are_made_by_the_other_layer(layer: int, other: int) -> None:
    case, healthy, fault = planted("values_of_another_layer", "encoder", layer=layer)
    healthy.model.load_state_dict(case.model.state_dict())
    state = case.model.state_dict()
    for part in ("weight", "bias"):
        name = f"blocks.{layer}.attention.value.{part}"
        assert gradients_of(case)[name] is None
        healthy.model.get_parameter(name).data.copy_(state[f"blocks.{other}.attention.value.{part}"])
    assert torch.allclose(output_of(case), output_of(healthy), atol=1e-6)
    assert fault.label(healthy).places[0] == f"L{layer}.V"


def test_a_parameter_that_is_updated_twice_counts_twice_as_many_steps() -> None:
    case, healthy, _ = planted("updated_twice", "encoder", layer=1)
    steps = {
        name: (float(case.optimizer.state[each]["step"]), float(healthy.optimizer.state[other]["step"]))
        for (name, each), other in zip(case.model.named_parameters(), healthy.model.parameters(), strict=True)
    }
    twice = {name for name, (mine, right) in steps.items() if mine == 2 * right}
    assert twice == {f"{ATTENTION}.query.weight", f"{ATTENTION}.query.bias"}
    assert all(right == 3 for _, right in steps.values())


def test_a_flipped_gradient_is_the_negative_and_changes_no_output() -> None:
    case, healthy, _ = planted("flipped_gradient", "encoder", layer=1)
    healthy.model.load_state_dict(case.model.state_dict())
    assert torch.equal(output_of(case), output_of(healthy))
    wrong, right = gradients_of(case), gradients_of(healthy)
    name = f"{ATTENTION}.query.weight"
    assert right[name].abs().max() > 0
    assert torch.allclose(wrong[name], -right[name])
    for other, each in right.items():
        if other != name:
            assert torch.allclose(wrong[other], each, atol=1e-7), other


@pytest.mark.parametrize("layer", [0, 1])
def test_a_layer_that_is_left_out_of_the_optimiser_stays(layer: int) -> None:
    before = dict(untrained("encoder").model.named_parameters())
    case, _, _ = planted("frozen_block", "encoder", layer=layer)
    for name, each in case.model.named_parameters():
        if name not in ("tokens.weight", "positions.weight"):  # some of their rows are not in the batch
            assert torch.equal(each, before[name]) == name.startswith(f"blocks.{layer}."), name


def test_redrawing_is_repeatable_and_follows_the_seed() -> None:
    one, two = (planted("redrawn_query", "encoder", layer=1, seed=3)[0] for _ in range(2))
    other, _, _ = planted("redrawn_query", "encoder", layer=1, seed=4)
    name = f"{ATTENTION}.query.weight"
    assert torch.equal(one.model.get_parameter(name), two.model.get_parameter(name))
    assert not torch.equal(one.model.get_parameter(name), other.model.get_parameter(name))


@pytest.mark.parametrize("name", ["transposed_output", "heads_merged_wrongly", "values_of_another_layer"])
def test_in_a_library_model_too(name: str) -> None:
    pytest.importorskip("transformers")
    from attnscope.case import Case

    model = catalogue.load("models", "distilbert")(n_layers=2, d_model=16, n_heads=2, d_mlp=32, n_tokens=32).build()
    ids = torch.arange(1, 25).view(3, 8)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.tensor([0, 1, 1])}
    healthy = Case(model.eval(), [batch], optimizer=torch.optim.AdamW(model.parameters(), lr=1e-2))
    case = catalogue.load("faults", name)(layer=1).inject(healthy)
    healthy.model.load_state_dict(case.model.state_dict())
    before = healthy.model(**batch).logits
    assert not torch.equal(before, case.model(**batch).logits)
    train(case, 2)
    healthy.model.load_state_dict(case.model.state_dict())
    assert not torch.equal(healthy.model(**batch).logits, case.model.eval()(**batch).logits)
