"""Gradients, updates and losses: the planted fault is seen, named and placed; the sound model is silent."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attnscope.anatomy.blocks import Anatomy, Block, ParameterSlice, Role
from attnscope.anatomy.trace import trace
from attnscope.lenses.block_ablation import BlockAblation
from attnscope.lenses.dead_gradient import DeadGradient
from attnscope.lenses.double_softmax_loss import DoubleSoftmaxLoss
from attnscope.lenses.gradient_noise_scale import GradientNoiseScale
from attnscope.lenses.gradient_norm import GradientNorm
from attnscope.lenses.gradient_to_weight import GradientToWeight
from attnscope.lenses.gradient_underflow import GradientUnderflow
from attnscope.lenses.head_ablation import HeadAblation
from attnscope.lenses.label_alignment import LabelAlignment
from attnscope.lenses.label_signal import LabelSignal
from attnscope.lenses.learning_rates import LearningRates
from attnscope.lenses.loss_at_start import LossAtStart
from attnscope.lenses.non_finite import NonFinite
from attnscope.lenses.optimizer_coverage import OptimizerCoverage
from attnscope.lenses.residual_ablation import ResidualAblation
from attnscope.lenses.update_to_weight import UpdateToWeight
from attnscope.probe import Probe
from lenses import hand_written as hand
from lenses import switchboard as board

Plan, probe_of = hand.Plan, hand.probe_of


def adam(probe: Probe, *, but: tuple[str, ...] = (), **settings: Any) -> torch.optim.Optimizer:
    chosen = [value for name, value in probe.model.named_parameters() if name.partition(".")[0] not in but]
    return torch.optim.AdamW(chosen, **{"lr": 1e-3, **settings})


class TestGradients:
    def test_norms_are_those_of_autograd(self) -> None:
        probe = probe_of(dtype=torch.float64)
        loss = probe.loss_of(probe.model, probe.batch)
        loss.backward()
        query = probe.model.query
        expected = math.sqrt(float(query.weight.grad.square().sum() + query.bias.grad.square().sum()))
        reading = GradientNorm().measure(probe)
        assert reading.at(block="L0.Q") == pytest.approx(expected)
        size = math.sqrt(float(query.weight.square().sum() + query.bias.square().sum()))
        assert GradientToWeight().measure(probe).at(block="L0.Q") == pytest.approx(expected / size)

    def test_the_scale_free_form_is_blind_to_an_exchange_of_scale(self) -> None:
        probe = probe_of(dtype=torch.float64)
        before = GradientToWeight().measure(probe)
        with torch.no_grad():
            for name, factor in (("query", 8.0), ("key", 1 / 8)):
                getattr(probe.model, name).weight.mul_(factor)
                getattr(probe.model, name).bias.mul_(factor)
        after = GradientToWeight().measure(probe_of(model=probe.model, dtype=torch.float64, batch=probe.batch))
        for block in ("L0.Q", "L0.K"):
            assert after.facts["scale_free"][block] == pytest.approx(before.facts["scale_free"][block], rel=1e-9)
            assert after.at(block=block) != pytest.approx(before.at(block=block), rel=0.5)

    def test_underflow_counts_what_float16_loses(self) -> None:
        probe = probe_of(loss=lambda output, batch: 1e-6 * output.square().mean())
        reading = GradientUnderflow().measure(probe)
        assert reading.at(block="L0.Q", precision="float16") == 1.0
        assert reading.at(block="L0.Q", precision="bfloat16") == 0.0
        sound = GradientUnderflow().measure(probe_of(loss=lambda output, batch: 1e3 * output.square().mean()))
        assert sound.at(block="classifier", precision="float16") < 0.2

    def test_the_noise_scale_of_equal_examples_is_zero_and_of_noise_is_large(self) -> None:
        row = torch.randint(1, 13, (1, 8))
        equal = row.expand(6, 8).contiguous()
        batch = (equal[:, :-1].contiguous(), equal[:, 1:].contiguous())
        reading = GradientNoiseScale().measure(probe_of(batch=batch))
        assert reading.at(block="classifier") == pytest.approx(0.0, abs=1e-4)
        torch.manual_seed(0)
        tokens = torch.randint(1, 13, (6, 8))
        noisy = GradientNoiseScale().measure(probe_of(batch=(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())))
        assert noisy.at(block="classifier") > 0.1
        assert noisy.facts["n_parts"] == 6

    def test_the_noise_scale_is_that_of_its_definition(self) -> None:
        """Against the covariance written out, on a linear model whose gradients are known."""
        torch.manual_seed(0)
        inputs, targets = torch.randn(20, 4, dtype=torch.float64) + 1, torch.randn(20, 1, dtype=torch.float64) - 5
        model = nn.Linear(4, 1, bias=False).double()
        gradients = 2 * (inputs @ model.weight.T - targets).detach() * inputs
        signal = gradients.mean(0).square().sum() - gradients.var(0).sum() / 20
        expected = float(gradients.var(0).sum() / signal)
        block = Block("all", Role.CLASSIFIER, (ParameterSlice("weight", (1, 4)),))
        probe = Probe(model=model, batches=((inputs, targets),), anatomy=Anatomy("Linear", (), (block,)))
        assert float(GradientNoiseScale().measure(probe).values[0]) == pytest.approx(expected, rel=1e-4)


class TestDeadGradient:
    def test_a_sound_model_has_none(self) -> None:
        reading = DeadGradient().measure(probe_of())
        assert reading.facts["dead"] == []
        assert not reading.values.any()

    def test_a_detached_projection_is_cut_at_its_line(self) -> None:
        reading = DeadGradient().measure(probe_of(Plan(on_key=Tensor.detach)))
        assert reading.facts["state"] == {"L0.K": "cut"}
        assert [cut["op"] for cut in reading.facts["cuts"]] == ["detach"]

    def test_no_grad_cuts_everything_behind_it(self) -> None:
        def frozen(context: Tensor) -> Tensor:
            with torch.no_grad():
                return context * 2.0

        reading = DeadGradient().measure(probe_of(Plan(on_context=frozen)))
        assert reading.facts["state"] == {"L0.Q": "cut", "L0.K": "cut", "L0.V": "cut"}
        (cut,) = reading.facts["cuts"]
        assert "return context * 2.0" in cut["text"]
        assert "test_gradients_and_updates.py" in cut["source"]

    def test_what_stands_before_zero_values_has_no_effect(self) -> None:
        probe = probe_of()
        with torch.no_grad():
            probe.model.value.weight.zero_()
            probe.model.value.bias.zero_()
        reading = DeadGradient().measure(probe_of(model=probe.model))
        assert reading.facts["state"] == {"L0.Q": "no effect", "L0.K": "no effect"}

    def test_a_silent_relu_is_not_a_cut(self) -> None:
        def silent(context: Tensor) -> Tensor:
            return torch.relu(context - 100.0)

        reading = DeadGradient().measure(probe_of(Plan(on_context=silent)))
        assert set(reading.facts["state"].values()) == {"no effect"}

    def test_frozen_parameters_are_not_dead(self) -> None:
        probe = probe_of()
        probe.model.key.requires_grad_(False)
        assert DeadGradient().measure(probe).facts["dead"] == []


class TestUpdates:
    @pytest.mark.parametrize(
        "make",
        [
            lambda p: torch.optim.AdamW(p, lr=1e-3),
            lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, nesterov=True),
            lambda p: torch.optim.Adam(p, lr=torch.tensor(1e-3), amsgrad=True, foreach=False),
            lambda p: torch.optim.RMSprop(p, centered=True),
            lambda p: torch.optim.Adagrad(p),
        ],
        ids=["AdamW", "SGD", "Adam", "RMSprop", "Adagrad"],
    )
    @pytest.mark.parametrize("warm", [True, False])
    def test_a_step_on_trial_leaves_no_trace(self, make, warm: bool) -> None:
        probe = probe_of()
        model = probe.model
        probe.optimizer = make(model.parameters())
        schedule = torch.optim.lr_scheduler.StepLR(probe.optimizer, 1)
        calls = []
        probe.optimizer.register_step_post_hook(lambda *args: calls.append(1))
        if warm:
            probe.loss_of(model, probe.batch).backward()
            probe.optimizer.step()
            schedule.step()
        calls.clear()
        before = copy.deepcopy((probe.optimizer.state_dict(), model.state_dict(), schedule.state_dict()))
        ids = {key: {name: id(value) for name, value in held.items()} for key, held in probe.optimizer.state.items()}
        attributes = sorted(probe.optimizer.__dict__)
        reading = UpdateToWeight().measure(probe)
        assert reading.ok, reading.note
        assert reading.values.max() > 0
        after = (probe.optimizer.state_dict(), model.state_dict(), schedule.state_dict())
        assert repr(before) == repr(after)
        assert_same(before, after)
        now = {key: {name: id(value) for name, value in held.items()} for key, held in probe.optimizer.state.items()}
        assert ids == now
        assert attributes == sorted(probe.optimizer.__dict__)
        assert calls == []

    def test_the_update_is_that_of_a_real_step(self) -> None:
        probe = probe_of(Plan(bias=False))
        probe.optimizer = torch.optim.SGD(probe.model.parameters(), lr=0.1)
        reading = UpdateToWeight().measure(probe)
        gradient = GradientToWeight().measure(probe)
        for block in reading.labels("block"):
            assert reading.at(block=block) == pytest.approx(0.1 * gradient.at(block=block), rel=1e-3)

    def test_a_block_left_out_gets_a_gradient_and_stays(self) -> None:
        probe = probe_of()
        probe.optimizer = adam(probe, but=("value",))
        reading = UpdateToWeight().measure(probe)
        assert reading.facts["still"] == ["L0.V"]
        assert reading.at(block="L0.V") == 0.0

    def test_weight_decay_alone_drifts(self) -> None:
        probe = probe_of(Plan(on_key=Tensor.detach))
        for parameter in probe.model.key.parameters():
            parameter.grad = torch.zeros_like(parameter)
        probe.optimizer = torch.optim.AdamW(probe.model.parameters(), weight_decay=0.1)
        assert UpdateToWeight().measure(probe).facts["drifting"] == []  # AdamW skips parameters without gradient

    def test_an_optimiser_that_needs_the_loss_is_not_applicable(self) -> None:
        probe = probe_of()
        probe.optimizer = torch.optim.LBFGS(probe.model.parameters())
        reading = UpdateToWeight().measure(probe)
        assert reading.status == "not_applicable"
        assert "LBFGS" in reading.note

    def test_coverage(self) -> None:
        probe = probe_of()
        assert OptimizerCoverage().measure(probe).facts["optimizer"] is None
        probe.optimizer = adam(probe, but=("value",))
        probe.model.key.bias.requires_grad_(False)
        stranger = nn.Parameter(torch.zeros(3, 2))
        probe.optimizer.add_param_group({"params": [stranger]})
        reading = OptimizerCoverage().measure(probe)
        assert reading.facts["missing"] == ["value.weight", "value.bias"]
        assert reading.facts["frozen"] == ["key.bias"]
        assert reading.facts["foreign"] == [[3, 2]]
        assert reading.at(block="L0.V") == 0.0
        assert reading.at(block="L0.K") == 1.0
        assert reading.facts["unregistered"] == []

    def test_tensors_that_are_used_and_not_registered_are_named(self) -> None:
        class Loose(hand.HandWritten):
            def __init__(self, plan: Plan) -> None:
                super().__init__(plan)
                self.scales = [torch.ones(12, requires_grad=True)]
                self.hidden_layers = {"first": nn.Linear(12, 12)}

            def forward(self, tokens: Tensor) -> Tensor:
                self.plan.on_value = hand.same
                inner = self.hidden_layers["first"](self.embedding(tokens) * self.scales[0])
                return super().forward(tokens) + self.classifier(inner)

        torch.manual_seed(0)
        reading = OptimizerCoverage().measure(probe_of(model=Loose(Plan())))
        names = sorted(item["name"] for item in reading.facts["unregistered"])
        assert names == ["hidden_layers['first'].bias", "hidden_layers['first'].weight", "scales[0]"]

    def test_learning_rates(self) -> None:
        probe = probe_of()
        assert LearningRates().measure(probe).status == "not_applicable"
        probe.optimizer = adam(probe, but=("value", "classifier"))
        probe.optimizer.add_param_group({"params": list(probe.model.value.parameters()), "lr": 0.1})
        reading = LearningRates().measure(probe)
        assert reading.at(block="L0.V") == pytest.approx(100)
        assert reading.at(block="L0.Q") == 1.0
        assert np.isnan(reading.at(block="classifier"))
        assert reading.facts["mixed"] == []


def assert_same(first: Any, second: Any) -> None:
    if isinstance(first, Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, list | tuple):
        for a, b in zip(first, second, strict=True):
            assert_same(a, b)
    else:
        assert first == second


class TestAblations:
    def test_a_zero_block_and_a_zero_head_have_no_effect(self) -> None:
        probe = probe_of()
        with torch.no_grad():
            probe.model.output.weight[:, 3:6] = 0.0
        reading = HeadAblation().measure(probe)
        assert reading.at(layer=0, head=1) == 0.0
        assert all(reading.at(layer=0, head=head) > 0 for head in (0, 2, 3))
        assert reading.facts["loss_change"][0][1] == 0.0
        blocks = BlockAblation().measure(probe)
        assert blocks.at(block="classifier") == pytest.approx(1.0)
        assert blocks.facts["no_effect"] == []
        with torch.no_grad():
            probe.model.value.weight.zero_()
            probe.model.value.bias.zero_()
        assert BlockAblation().measure(probe).facts["no_effect"] == ["L0.Q", "L0.K", "L0.V"]

    def test_removing_the_residual_is_what_it_says(self) -> None:
        probe = board.probe_of()
        reading = ResidualAblation().measure(probe)
        assert reading.ok, reading.note
        before = probe.output()
        layer = probe.model.layers[1]

        def without(self_hidden: Tensor, real: Tensor) -> Tensor:
            normed = layer.norm(self_hidden)
            query, key, value = (board.split(part(normed)) for part in (layer.query, layer.key, layer.value))
            scores = query @ key.transpose(-1, -2) / 8**0.5
            length = scores.shape[-1]
            scores = scores.masked_fill(~torch.ones(length, length).tril().bool(), float("-inf"))
            scores = scores.masked_fill(~real[:, None, None, :], -1e9)
            result = layer.output((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))
            return result + layer.mlp(result)

        layer.forward = without
        after = probe.output()
        expected = float((after - before).abs().max() / before.abs().max())
        assert reading.at(layer=1) == pytest.approx(expected, rel=1e-4)


class Language(nn.Module):
    """Logits for every token; the loss inside or outside, the labels shifted as told."""

    def __init__(self, shift_inside: int = 0) -> None:
        super().__init__()
        self.embedding, self.head, self.shift = nn.Embedding(13, 8), nn.Linear(8, 13), shift_inside

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.head(self.embedding(input_ids))
        found = {"logits": logits}
        if labels is not None:
            kept = logits[:, : logits.shape[1] - self.shift]
            found["loss"] = nn.functional.cross_entropy(kept.flatten(0, 1), labels[:, self.shift :].flatten())
        return found


class TestLosses:
    @pytest.mark.parametrize(("shift", "moved", "best"), [(1, 0, 1), (0, 0, 0), (1, 1, 2), (0, 1, 1)])
    def test_the_offset_that_the_loss_inside_the_model_wants(self, shift: int, moved: int, best: int) -> None:
        torch.manual_seed(0)
        ids = torch.randint(0, 13, (4, 9))
        batch = {"input_ids": ids[:, : 9 - moved].clone(), "labels": ids[:, moved:].clone()}
        reading = LabelAlignment().measure(traced(Language(shift), batch))
        assert reading.facts["best"] == best
        assert reading.facts["language_model"]

    def test_the_offset_that_a_loss_outside_wants(self) -> None:
        for move, best in ((1, 1), (0, 0)):
            tokens = torch.randint(1, 13, (3, 8))
            batch = (tokens[:, :-1].contiguous(), tokens[:, move : 7 + move].contiguous())
            reading = LabelAlignment().measure(hand_traced(batch))
            assert reading.facts["best"] == best
            assert reading.facts["language_model"]

    def test_targets_that_are_no_tokens_of_the_input_are_said(self) -> None:
        torch.manual_seed(0)
        batch = (torch.randint(1, 13, (8, 9)), torch.randint(1, 13, (8, 9)))
        assert not LabelAlignment().measure(hand_traced(batch)).facts["language_model"]

    def test_a_decoder_that_is_fed_its_labels_is_not_asked(self) -> None:
        """An encoder-decoder shifts the labels itself: that they equal themselves says nothing."""
        transformers = pytest.importorskip("transformers")
        config = transformers.T5Config(
            vocab_size=30, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0
        )
        torch.manual_seed(0)
        model = transformers.T5ForConditionalGeneration(config).eval()
        batch = {"input_ids": torch.randint(3, 30, (3, 7)), "labels": torch.randint(3, 30, (3, 5))}
        reading = LabelAlignment().measure(traced(model, batch))
        assert reading.status == "not_applicable"
        assert "made from the labels" in reading.note

    def test_labels_with_and_without_signal(self) -> None:
        torch.manual_seed(0)
        tokens = torch.randint(1, 13, (6, 8))
        model = nn.Sequential(nn.Embedding(13, 13))
        with torch.no_grad():
            model[0].weight.copy_(10 * torch.eye(13))
        learnt = LabelSignal().measure(traced(model, (tokens, tokens.clone())))
        assert learnt.values[0] > 3 * learnt.stderr[0] > 0
        constant = LabelSignal().measure(traced(model, (tokens, torch.full_like(tokens, 2))))
        assert constant.facts["constant"]
        assert constant.values.tolist() == [0.0]
        ignored = LabelSignal().measure(traced(model, (tokens, torch.full_like(tokens, -100))))
        assert ignored.facts["all_ignored"]

    @pytest.mark.parametrize(
        ("loss", "given", "share"),
        [
            (lambda o, b: nn.functional.cross_entropy(o.flatten(0, 1), b[1].flatten()), "logits", 0.0),
            (
                lambda o, b: nn.functional.cross_entropy(o.softmax(-1).flatten(0, 1), b[1].flatten()),
                "probabilities",
                1.0,
            ),
            (lambda o, b: nn.CrossEntropyLoss()(o.softmax(-1).transpose(1, 2), b[1]), "probabilities", 1.0),
            (
                lambda o, b: nn.functional.cross_entropy(o.log_softmax(-1).flatten(0, 1), b[1].flatten()),
                "log-probabilities",
                0.0,
            ),
            (
                lambda o, b: nn.functional.nll_loss(o.log_softmax(-1).flatten(0, 1), b[1].flatten()),
                "log-probabilities",
                0.0,
            ),
            (lambda o, b: nn.functional.nll_loss(o.softmax(-1).flatten(0, 1), b[1].flatten()), "probabilities", 1.0),
            (
                lambda o, b: nn.functional.binary_cross_entropy_with_logits(o.sigmoid(), torch.zeros_like(o)),
                "probabilities",
                1.0,
            ),
            (lambda o, b: nn.functional.binary_cross_entropy_with_logits(o, torch.zeros_like(o)), "logits", 0.0),
        ],
    )
    def test_a_loss_that_is_given_the_wrong_form(self, loss, given: str, share: float) -> None:
        reading = DoubleSoftmaxLoss().measure(probe_of(loss=loss))
        assert reading.facts["calls"][0]["given"] == given
        assert reading.values.tolist() == [share]
        assert "test_gradients_and_updates.py" in reading.facts["calls"][0]["source"]
        assert bool(reading.facts["violated"]) is (share == 1.0)

    def test_the_loss_at_the_start_is_that_of_a_uniform_guess(self) -> None:
        probe = probe_of()
        with torch.no_grad():
            probe.model.classifier.weight.zero_()
            probe.model.classifier.bias.zero_()
        reading = LossAtStart().measure(probe)
        assert reading.values == pytest.approx([1.0])
        assert reading.facts["n_classes"] == 13
        assert LossAtStart().measure(probe_of(loss=lambda o, b: o.square().mean())).status == "not_applicable"


def traced(model: nn.Module, batch: Any) -> Probe:
    """A probe on a model without attention: nothing to trace but the tokens."""
    return Probe(model=model, batches=(batch,), anatomy=trace(model, batch))


def hand_traced(batch: Any) -> Probe:
    torch.manual_seed(0)
    return traced(hand.HandWritten(Plan()), batch)


class TestNonFinite:
    def test_a_sound_model_has_none_in_spite_of_masks(self) -> None:
        reading = NonFinite().measure(probe_of())
        assert not reading.values.any()
        assert reading.facts["first"] is None

    def test_the_first_operation_is_named_with_its_line(self) -> None:
        def broken(context: Tensor) -> Tensor:
            return context / (context - context)

        reading = NonFinite().measure(probe_of(Plan(on_context=broken)))
        first = reading.facts["first"]
        assert first["op"] == "div"
        assert "return context / (context - context)" in first["text"]
        assert reading.facts["reaches"]
        assert reading.at(place="loss") == 1

    def test_a_masked_row_that_is_cleaned_does_not_reach(self) -> None:
        def cleaned(context: Tensor) -> Tensor:
            row = torch.full_like(context, float("-inf")).softmax(-1)
            return context + torch.nan_to_num(row, nan=0.0)

        reading = NonFinite().measure(probe_of(Plan(on_context=cleaned)))
        assert reading.facts["first"]["kind"] == "nan"
        assert "softmax" in reading.facts["first"]["op"]
        assert not reading.facts["reaches"]
        assert reading.at(place="gradient") == 0

    def test_a_gradient_that_alone_is_broken(self) -> None:
        reading = NonFinite().measure(
            probe_of(loss=lambda output, batch: (output - output.detach()).norm(dim=-1).sqrt().sum())
        )
        assert reading.at(place="loss") == 0
        assert reading.at(place="gradient") > 0
        assert "classifier.weight" in reading.facts["gradients"]

    def test_parameters_and_inputs_are_named(self) -> None:
        probe = probe_of()
        with torch.no_grad():
            probe.model.key.weight[0, 0] = float("nan")
        reading = NonFinite().measure(probe)
        assert reading.facts["parameters"] == ["key.weight"]
        assert reading.facts["first"] is None
        assert reading.facts["reaches"]
