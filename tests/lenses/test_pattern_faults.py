"""What pattern lenses say of patterns that are wrong in a known way: the numbers and facts that rules rely on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import observations
from attnscope import catalogue
from attnscope.anatomy.blocks import Kind
from attnscope.probe import Probe
from attnscope.readings import Reading


def measured(name: str, probe: Probe, **settings: Any) -> Reading:
    return catalogue.load("lenses", name)(**settings).measure(probe)


def with_pattern(probe: Probe, pattern: Tensor, **more: Any) -> Probe:
    return observations.altered(probe, **{"pattern": pattern, "softmax_output": pattern, **more})


def scores_of(probe: Probe) -> Tensor:
    return probe.observation.attentions[0].scores


def unmasked(probe: Probe) -> Tensor:
    raw = probe.observation.attentions[0].raw_scores
    assert raw is not None
    return raw * 0.5


def test_a_healthy_pattern_has_clean_facts() -> None:
    probe = observations.standard(n_layers=1)
    sums = measured("row_sums", probe)
    assert sums.values.max() <= sums.facts["tolerance"][0]
    assert sums.facts["sums_to_one"] == [["keys"]]
    assert sums.facts["scores_are_a_distribution"] == [False]
    assert measured("padding_mass", probe).values.max() == 0
    assert measured("padding_mass", probe).facts["masked_by_trace"] == [True]
    assert measured("pattern_support", probe).values.max() == 0
    assert measured("distance_to_uniform", probe).facts["exact"] == []
    assert measured("head_similarity", probe).facts["duplicates"] == []
    assert measured("head_contribution", probe).facts["dead"] == []


@pytest.mark.parametrize(("axis", "name"), [(0, "batch"), (1, "heads"), (2, "queries")])
def test_a_softmax_over_another_axis_is_named(axis: int, name: str) -> None:
    probe = observations.standard(n_layers=1)
    pattern = unmasked(probe).softmax(axis)
    facts = measured("row_sums", with_pattern(probe, pattern, allowed=None)).facts
    assert facts["sums_to_one"] == [[name]]
    assert facts["deviation_over"][0]["keys"] > 0.1


def test_a_softmax_of_a_softmax_is_seen_in_its_input_and_its_range() -> None:
    probe = observations.standard(n_layers=1, scale=30.0)
    once = probe.observation.attentions[0].pattern
    mask = probe.observation.attentions[0].allowed
    assert mask is not None
    twice = once.masked_fill(~mask, -torch.inf)
    facts = measured("row_sums", with_pattern(probe, twice.softmax(-1), scores=twice)).facts
    assert facts["scores_are_a_distribution"] == [True]
    assert np.array(facts["widest_ratio"]).max() <= np.e + 1e-6
    assert np.array(measured("row_sums", probe).facts["widest_ratio"]).max() > np.e


def test_a_mask_after_the_softmax_leaves_the_softmax_whole_and_the_rows_short() -> None:
    probe = observations.standard(n_layers=1)
    mask = observations.padding(probe.batch["input_ids"])
    whole = unmasked(probe).softmax(-1)
    reading = measured("row_sums", with_pattern(probe, whole * mask, softmax_output=whole))
    assert reading.values.max() > 0.1
    assert np.array(reading.facts["softmax_deviation"]).max() < 1e-6


@pytest.mark.parametrize("ahead", [1, 2])
def test_a_shifted_causal_mask_leaks_as_far_as_it_is_shifted(ahead: int) -> None:
    mask = torch.ones(6, 6, dtype=torch.bool).tril(ahead)[None, None]
    probe = observations.standard(n_layers=1, allowed=mask, expects={"causal": True})
    reading = measured("future_mass", probe)
    assert reading.values.min() > 0.01
    assert reading.facts["furthest"] == [ahead]
    assert all(value > 0 for value in reading.facts["by_offset"][0][:ahead])
    assert not any(reading.facts["by_offset"][0][ahead:])
    assert reading.facts["causal"] == [True]


def test_a_causal_mask_that_forbids_the_own_position_shows_in_self_mass() -> None:
    mask = torch.ones(6, 6, dtype=torch.bool).tril(-1)[None, None]
    reading = measured("future_mass", observations.standard(n_layers=1, allowed=mask))
    assert np.array(reading.facts["self_mass"]).max() == 0
    whole = measured("future_mass", observations.standard(n_layers=1, allowed=observations.causal()))
    assert np.array(whole.facts["self_mass"]).min() > 0


@pytest.mark.parametrize("fill", [-5.0, -20.0])
def test_a_small_fill_leaks_a_little_everywhere(fill: float) -> None:
    probe = observations.standard(n_layers=1)
    mask = observations.padding(probe.batch["input_ids"])
    pattern = unmasked(probe).masked_fill(~mask, fill).softmax(-1)
    leaking = with_pattern(probe, pattern)
    assert 0 < measured("padding_mass", leaking).values.max() < 0.05
    assert 0 < measured("pattern_support", leaking).values.max() < 0.05
    assert measured("padding_mass", with_pattern(probe, pattern, allowed=None)).facts["masked_by_trace"] == [False]


def test_an_inverted_mask_puts_all_weight_on_padding() -> None:
    probe = observations.standard(n_layers=1)
    mask = ~observations.padding(probe.batch["input_ids"])
    mask[0] = True  # the one example without padding would have nothing left
    pattern = unmasked(probe).masked_fill(~mask, -torch.inf).softmax(-1)
    assert measured("padding_mass", with_pattern(probe, pattern)).values == pytest.approx(1.0)


def test_uniform_and_copied_heads_are_listed_exactly() -> None:
    probe = observations.standard(n_layers=1)
    pattern = probe.observation.attentions[0].pattern.clone()
    mask = observations.padding(probe.batch["input_ids"]).double()
    pattern[:, 1] = (mask / mask.sum(-1, keepdim=True))[:, 0].to(pattern)
    flat = with_pattern(probe, pattern)
    assert measured("distance_to_uniform", flat).facts["exact"] == [[0, 1]]
    assert measured("attention_entropy", flat).values[0, 1] == pytest.approx(1.0, abs=1e-6)
    assert measured("pattern_rank", flat).values[0, 1] == pytest.approx(1.0, abs=1e-5)
    pattern[:, 2] = pattern[:, 0]
    copied = measured("head_similarity", with_pattern(probe, pattern))
    assert copied.facts["duplicates"] == [{"layer": 0, "heads": [0, 2], "same_context": False, "uniform": False}]
    assert copied.values[0, [0, 2]] == pytest.approx(1.0)


def test_half_precision_makes_no_small_scores_exactly_uniform() -> None:
    probe = observations.standard(n_layers=1)
    seen = probe.observation.attentions[0]
    assert seen.allowed is not None
    for size, exact in ((0.0, True), (0.05, False)):
        scores = (size * seen.scores.sign()).masked_fill(~seen.allowed, -torch.inf).to(torch.bfloat16)
        pattern = scores.softmax(-1)
        reading = measured("distance_to_uniform", with_pattern(probe, pattern, scores=scores))
        assert (len(reading.facts["exact"]) == pattern.shape[1]) is exact


def test_collapsed_tokens_have_no_spread() -> None:
    probe = observations.standard(n_layers=2)
    hidden = probe.observation.attentions[1].hidden
    assert hidden is not None
    same = hidden.mean(1, keepdim=True).expand_as(hidden)
    reading = measured("token_spread", observations.altered(probe, 1, hidden=same))
    assert reading.values[1] == pytest.approx(0, abs=1e-6)
    assert reading.facts["cosine"][1] == pytest.approx(1, abs=1e-6)
    assert reading.values[0] > 0.7


def test_a_pattern_by_position_alone_is_told_from_one_by_content() -> None:
    ids = torch.randint(1, 9, (40, 6), generator=torch.Generator().manual_seed(0))
    model = observations.Stack(1, 12)
    torch.manual_seed(0)
    layer = observations.tensors(model.layers[0], torch.randn(40, 6, 12), 3)
    probe = observations.probe(model, [layer], ids, n_heads=3)
    fixed = (3 * torch.randn(1, 3, 6, 6)).softmax(-1).expand(40, -1, -1, -1)
    free = (3 * torch.randn(40, 3, 6, 6)).softmax(-1)
    assert measured("positional_share", with_pattern(probe, fixed)).values == pytest.approx(1.0)
    assert measured("positional_share", with_pattern(probe, free)).values.max() < 0.05


def test_a_sink_is_measured_beside_what_uniform_attention_gives() -> None:
    probe = observations.standard(n_layers=1, allowed=observations.causal(), expects={})
    pattern = torch.zeros_like(probe.observation.attentions[0].pattern)
    pattern[..., 0] = 1
    reading = measured("first_token_mass", with_pattern(probe, pattern))
    assert reading.values == pytest.approx(1.0)
    assert reading.facts["uniform"][0] == pytest.approx(np.mean([1 / n for n in range(2, 7)]))


def test_padding_is_not_guessed() -> None:
    probe = observations.standard(expects={})
    assert "nothing says which tokens are padding" in measured("padding_mass", probe).note
    real = {"padding_token": 99}
    assert "no key of the first batch is padding" in measured("padding_mass", observations.standard(expects=real)).note


def test_cross_attention_has_no_future_and_pads_by_its_own_keys() -> None:
    probe = observations.standard(n_layers=1, kind=Kind.CROSS)
    assert measured("future_mass", probe).status == "not_applicable"
    assert measured("padding_mass", probe).ok


def test_one_broken_head_makes_the_reading_not_finite_and_is_named() -> None:
    probe = observations.standard()
    pattern = probe.observation.attentions[1].pattern.clone()
    pattern[0, 2, 0] = torch.nan
    for name in ("attention_entropy", "distance_to_uniform", "row_sums", "pattern_rank", "head_similarity"):
        reading = measured(name, observations.altered(probe, 1, pattern=pattern, softmax_output=pattern))
        assert reading.status == "not_finite", name
        assert "L1H" in reading.note
        assert np.isfinite(reading.values[0]).all(), name
