"""What an intervention must not move does not move in a sound model, bit for bit; in a faulty one it does, there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attnscope.lenses.cached_decode import CachedDecode
from attnscope.lenses.determinism import Determinism
from attnscope.lenses.dropout_seed import DropoutSeed
from attnscope.lenses.future_token import FutureToken
from attnscope.lenses.mode_flags import ModeFlags
from attnscope.lenses.other_example import OtherExample
from attnscope.lenses.padded_token import PaddedToken
from attnscope.lenses.position_shift import PositionShift
from attnscope.lenses.token_order import TokenOrder
from lenses import switchboard as board

Switches, probe_of, traced = board.Switches, board.probe_of, board.traced


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_nothing_moves_in_a_sound_model(dtype: torch.dtype, padded: bool) -> None:
    switches = Switches()
    torch.manual_seed(0)
    probe = traced(board.Switchboard(switches).to(dtype), board.batch_of(switches, padded=padded))
    lenses = [FutureToken(), OtherExample(), *([PaddedToken()] if padded else [])]
    for lens in lenses:
        reading = lens.measure(probe)
        assert reading.ok, reading.note
        assert reading.facts["exact"]
        assert reading.facts["moved"] == 0.0
        assert not reading.facts["violated"]
        assert reading.values.tolist() == [0.0, 0.0]


class TestFutureToken:
    @pytest.mark.parametrize("layer", [0, 1])
    @pytest.mark.parametrize("ahead", [1, 2])
    def test_a_mask_off_by_k_reaches_k_back_in_that_layer(self, layer: int, ahead: int) -> None:
        reading = FutureToken().measure(probe_of(Switches(ahead={layer: ahead})))
        assert reading.facts["violated"]
        assert reading.facts["output_violated"]
        assert reading.facts["first_layer"] == layer
        assert reading.facts["offsets"][str(layer)] == list(range(1, ahead + 1))
        assert reading.facts["output_offsets"] == list(range(1, ahead + 1))

    def test_a_missing_mask_reaches_everything(self) -> None:
        reading = FutureToken().measure(probe_of(Switches(causal=False), padded=False))
        assert reading.facts["first_layer"] == 0
        assert reading.facts["output_offsets"] == list(range(1, 9))

    @pytest.mark.parametrize("fill", [-1.0, -9.0])
    def test_a_weak_fill_leaks_a_little(self, fill: float) -> None:
        reading = FutureToken().measure(probe_of(Switches(fill={1: fill})))
        assert reading.facts["violated"]
        assert reading.facts["first_layer"] == 1
        assert reading.at(layer=0) == 0.0
        assert 0 < reading.at(layer=1) < 0.5

    def test_a_leak_outside_attention_is_said_to_be_there(self) -> None:
        reading = FutureToken().measure(probe_of(Switches(leaky_convolution=True)))
        assert reading.facts["violated"]
        assert reading.facts["outside_attention"]
        assert reading.facts["first_layer"] is None

    def test_features_are_changed_where_there_are_no_tokens(self) -> None:
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        batch = (torch.randn(3, 5, 8), torch.randn(3, 5, 8))

        def causal(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            return model(batch[0], src_mask=nn.Transformer.generate_square_subsequent_mask(5), is_causal=True)

        sound = FutureToken().measure(traced(layer, batch, forward=causal, expects={}))
        assert sound.facts["moved"] == 0.0
        leaky = FutureToken().measure(traced(layer, batch, expects={}))
        assert leaky.facts["output_offsets"] == [1, 2, 3, 4]

    def test_as_many_classes_as_positions_are_not_taken_for_positions(self) -> None:
        switches = Switches(pooled=True)
        torch.manual_seed(0)
        probe = traced(board.Switchboard(switches), board.batch_of(switches, padded=False, length=3))
        assert probe.output().shape[-1] == 3
        reading = FutureToken().measure(probe)
        assert not reading.facts["output_compared"]
        assert reading.values.tolist() == [0.0, 0.0]

    def test_a_padded_query_may_see_anything(self) -> None:
        """On the left of a text every key of a padded query is masked, so that the softmax weighs them alike."""
        switches = Switches(fill={0: -1e9, 1: -1e9})
        inputs, targets = board.batch_of(switches)
        flipped = {name: value.flip(1) for name, value in inputs.items()}
        reading = FutureToken().measure(traced(board.Switchboard(switches), (flipped, targets)))
        assert not reading.facts["violated"]
        assert reading.facts["offsets"] == {"0": [], "1": []}

    def test_no_sequence_is_not_applicable(self) -> None:
        probe = traced(
            nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), (torch.randn(3, 3, 2, 2), torch.tensor([0, 1, 0]))
        )
        assert FutureToken().measure(probe).status == "not_applicable"


class TestPaddedToken:
    @pytest.mark.parametrize("layer", [0, 1])
    def test_an_ignored_mask_is_found_in_its_layer(self, layer: int) -> None:
        reading = PaddedToken().measure(probe_of(Switches(causal=False, padding_ignored=(layer,))))
        assert reading.facts["violated"]
        assert reading.facts["first_layer"] == layer

    def test_padding_in_the_pooling_is_outside_attention(self) -> None:
        reading = PaddedToken().measure(probe_of(Switches(causal=False, pooled=True, padding_pooled=True)))
        assert reading.facts["output_violated"]
        assert reading.facts["first_layer"] is None
        sound = PaddedToken().measure(probe_of(Switches(causal=False, pooled=True)))
        assert sound.facts["moved"] == 0.0

    def test_a_mask_made_from_the_token_is_kept(self) -> None:
        class Own(board.Switchboard):
            def forward(self, input_ids: Tensor) -> Tensor:
                return super().forward(input_ids, (input_ids != board.PAD).long())

        def forward(model: nn.Module, batch: object) -> Tensor:
            return model(batch[0]["input_ids"])

        for ignored, violated in (((), False), ((0,), True)):
            switches = Switches(causal=False, padding_ignored=ignored)
            torch.manual_seed(0)
            probe = traced(
                Own(switches), board.batch_of(switches), forward=forward, expects={"padding_token": board.PAD}
            )
            reading = PaddedToken().measure(probe)
            assert reading.facts["method"] == "embedding"
            assert reading.facts["violated"] is violated

    def test_what_is_missing_is_said(self) -> None:
        assert "no padding" in PaddedToken().measure(probe_of(expects={})).note
        assert "unequal length" in PaddedToken().measure(probe_of(padded=False)).note


class TestOtherExample:
    @pytest.mark.parametrize("layer", [0, 1])
    def test_attention_over_the_batch_axis_is_found_in_its_layer(self, layer: int) -> None:
        reading = OtherExample().measure(probe_of(Switches(causal=False, across=(layer,)), padded=False))
        assert reading.facts["violated"]
        assert reading.facts["first_layer"] == layer

    def test_statistics_of_the_batch_in_eval_mode_are_found(self) -> None:
        reading = OtherExample().measure(probe_of(Switches(batch_norm_of_batch=True)))
        assert reading.facts["output_violated"]
        assert reading.facts["first_layer"] is None

    def test_one_example_is_doubled(self) -> None:
        switches = Switches()
        probe = traced(board.Switchboard(switches), board.batch_of(switches, n=1))
        reading = OtherExample().measure(probe)
        assert reading.facts["n_examples"] == 2
        assert reading.facts["moved"] == 0.0

    def test_sequence_first_is_told_by_one_label_per_example(self) -> None:
        encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 1)

        class First(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.encoder, self.classifier = encoder, nn.Linear(8, 2)

            def forward(self, features: Tensor) -> Tensor:
                return self.classifier(self.encoder(features).mean(0))

        batch = (torch.randn(7, 3, 8), torch.tensor([0, 1, 0]))
        reading = OtherExample().measure(traced(First(), batch, expects={}))
        assert reading.facts["batch_axis"] == 1
        assert reading.facts["axes_known"]
        assert reading.facts["moved"] == 0.0


class TestTokenOrder:
    @pytest.mark.parametrize("pooled", [True, False])
    def test_no_positions_and_constant_positions_leave_rounding(self, pooled: bool) -> None:
        for positions, matters in (("none", False), ("constant", False), ("learned", True)):
            switches = Switches(causal=False, positions=positions, pooled=pooled)
            reading = TokenOrder().measure(probe_of(switches))
            assert reading.facts["order_matters"] is matters, positions

    def test_a_causal_mask_alone_tells_deeper_layers_but_not_the_first(self) -> None:
        blind = TokenOrder().measure(probe_of(Switches(positions="none"), padded=False))
        assert blind.facts["order_matters"]
        seeing = TokenOrder().measure(probe_of(padded=False))
        assert seeing.facts["first_attention_moved"] > 1e-3

    def test_a_sequence_of_one_token_over_again_says_nothing(self) -> None:
        switches = Switches()
        (inputs, targets) = board.batch_of(switches, padded=False)
        inputs["input_ids"] = torch.full_like(inputs["input_ids"], 3)
        reading = TokenOrder().measure(traced(board.Switchboard(switches), (inputs, targets)))
        assert reading.status == "not_applicable"


class TestSeedAndModes:
    def test_dropout_is_silent_in_eval_mode(self) -> None:
        reading = DropoutSeed().measure(probe_of(Switches(dropout=0.3)))
        assert reading.at(mode="eval") == 0.0
        assert reading.at(mode="train") > 0.01
        assert reading.facts["random_steps"] == []

    def test_a_functional_dropout_is_named_with_its_line(self) -> None:
        reading = DropoutSeed().measure(probe_of(Switches(functional_dropout=True)))
        assert reading.at(mode="eval") > 0.01
        (step,) = reading.facts["random_steps"]
        assert step["module"] == "layers.1"
        assert step["rate"] == pytest.approx(0.2)
        assert "switchboard.py:" in step["source"]
        assert "nn.functional.dropout(pattern, 0.2)" in step["text"]

    def test_modules_that_stay_in_training_mode_are_named(self) -> None:
        class Stubborn(nn.Dropout):
            def train(self, mode: bool = True) -> nn.Module:
                return super().train(True)

        probe = probe_of()
        probe.model.layers[0].dropout = Stubborn(0.5)
        probe.model.layers[1].extra = [nn.Dropout(0.1)]
        reading = ModeFlags().measure(probe)
        assert [item["module"] for item in reading.facts["active"]] == ["layers.0.dropout", "layers.1.extra[0]"]
        assert reading.at(kind="active") == 2
        assert reading.at(kind="unregistered") == 1
        assert DropoutSeed().measure(probe).at(mode="eval") > 0
        assert ModeFlags().measure(probe_of()).values.tolist() == [0, 0, 0, 0]


class TestDeterminism:
    def test_a_sound_model_repeats(self) -> None:
        reading = Determinism().measure(probe_of())
        assert reading.values.tolist() == [0, 0, 0]
        assert reading.facts["changed_state"] == []

    def test_a_model_that_counts_is_caught(self) -> None:
        class Counting(board.Switchboard):
            def __init__(self, switches: Switches) -> None:
                super().__init__(switches)
                self.register_buffer("calls", torch.zeros(()))

            def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
                self.calls += 1
                return super().forward(input_ids, attention_mask) * (1 + 0.1 * self.calls)

        switches = Switches()
        probe = traced(Counting(switches), board.batch_of(switches))
        reading = Determinism().measure(probe)
        assert reading.at(quantity="output") > 0.01
        assert reading.facts["changed_state"] == ["calls"]
        assert reading.facts["repeats_from_same_state"]
        assert float(probe.model.calls) == 0

    def test_a_clock_is_caught(self) -> None:
        ticks = iter(range(10_000))

        class Clock(board.Switchboard):
            def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
                return super().forward(input_ids, attention_mask) + next(ticks)

        switches = Switches()
        reading = Determinism().measure(traced(Clock(switches), board.batch_of(switches)))
        assert reading.at(quantity="output") > 0
        assert not reading.facts["repeats_from_same_state"]


class Cached(nn.Module):
    """One causal attention with a cache of keys and values, as language models hold it."""

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        self.fault = fault
        self.tokens, self.positions = nn.Embedding(23, 16), nn.Embedding(32, 16)
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))
        self.classifier = nn.Linear(16, 23)

    def forward(self, input_ids: Tensor, past: tuple[Tensor, Tensor] | None = None) -> dict[str, object]:
        seen = 0 if past is None else past[0].shape[1]
        start = 0 if self.fault == "positions" else seen
        places = torch.arange(start, start + input_ids.shape[1])
        hidden = self.tokens(input_ids) + self.positions(places)
        query, key, value = self.query(hidden), self.key(hidden), self.value(hidden)
        if past is not None:
            key, value = torch.cat([past[0], key], 1), torch.cat([past[1], value], 1)
        if self.fault == "cut":
            key, value = (key[:, -4:], value[:, -4:]) if past is not None else (key, value)
        scores = query @ key.transpose(1, 2) / 4
        if past is None:
            scores = scores.masked_fill(~torch.ones(scores.shape[-2:]).tril().bool(), float("-inf"))
        return {"logits": self.classifier(hidden + scores.softmax(-1) @ value), "past": (key, value)}


class TestCachedDecode:
    @pytest.mark.parametrize(("fault", "first"), [("", None), ("positions", 1), ("cut", 4)])
    def test_the_first_wrong_position_is_named(self, fault: str, first: int | None) -> None:
        torch.manual_seed(0)
        ids = torch.randint(1, 23, (3, 8))
        probe = traced(Cached(fault), {"input_ids": ids}, expects={}, loss=lambda output, batch: output["logits"].sum())
        reading = CachedDecode().measure(probe)
        assert reading.ok, reading.note
        assert reading.facts["cache"] == "past"
        assert reading.facts["violated"] is (first is not None)
        assert reading.facts["first_position"] == first

    def test_a_model_without_a_cache_is_not_applicable(self) -> None:
        switches = Switches()
        inputs, _ = board.batch_of(switches)
        reading = CachedDecode().measure(traced(board.Switchboard(switches), inputs))
        assert reading.status == "not_applicable"


class TestPositionShift:
    @pytest.mark.parametrize("shift", [0, 1, 2])
    def test_a_shift_after_training_is_undone_by_the_opposite_one(self, shift: int) -> None:
        class Places(nn.Module):
            """Names its own position, and nothing else."""

            def __init__(self) -> None:
                super().__init__()
                self.shift = 0
                self.tokens, self.positions = nn.Embedding(5, 16), nn.Embedding(16, 16)
                self.query, self.key = nn.Linear(16, 16), nn.Linear(16, 16)
                self.classifier = nn.Linear(16, 16)

            def forward(self, input_ids: Tensor) -> Tensor:
                places = torch.arange(input_ids.shape[1]) + self.shift
                hidden = 0.1 * self.tokens(input_ids) + self.positions(places)
                pattern = (self.query(hidden) @ self.key(hidden).transpose(1, 2) / 4).softmax(-1)
                return self.classifier(hidden + pattern @ hidden)

        torch.manual_seed(0)
        model = Places()
        ids = torch.randint(0, 5, (8, 6))
        targets = torch.arange(6).expand(8, 6).contiguous()
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(60):
            loss = nn.functional.cross_entropy(model(ids).flatten(0, 1), targets.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.shift = shift
        reading = PositionShift().measure(traced(model, (ids, targets), expects={}))
        assert reading.ok, reading.note
        assert reading.labels("shift")[int(np.argmin(reading.values))] == -shift
        assert reading.facts["first_row"] == shift
        assert not reading.facts["one_row"]

    def test_equal_rows_are_said(self) -> None:
        probe = probe_of()
        assert not PositionShift().measure(probe).facts["constant"]
        with torch.no_grad():
            probe.model.positions.weight.copy_(probe.model.positions.weight[:1].expand(16, 16))
        assert PositionShift().measure(traced(probe.model, probe.batch)).facts["constant"]
