"""What observe returns, against the model's own record, Hugging Face's, and the definition."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attnscope.anatomy.observe import AttentionTensors, Observation, observe
from attnscope.anatomy.trace import trace
from attnscope.case import default_forward

from . import rows_hf, rows_pooled, rows_torch, rows_user, rows_zoo
from .truth import Row, Truth, params

OWN = [
    row
    for row in (*rows_zoo.ROWS, *rows_user.ROWS, *rows_pooled.ROWS)
    if row.truth and not row.train and not row.name.startswith("Multihead")
]
EAGER = [row for row in rows_hf.ROWS if "eager" in row.name and not row.train]
SDPA = [row for row in rows_hf.ROWS if "sdpa" in row.name and not row.train]
TORCH = [row for row in rows_torch.ROWS if not row.train]
MULTIHEAD = [row for row in rows_torch.MULTIHEAD if not row.train and row.name.startswith("Multihead")]
BLIND = {"sigmoid", "mask multiplied after", "mask filled after", "HAN linear", "talking heads"}
CLOSE = {"rtol": 1e-4, "atol": 2e-6}


def seen(row: Row) -> tuple[nn.Module, Any, Observation]:
    model, batch = row.make()
    model.eval()
    anatomy = trace(model, batch)
    return model, batch, observe(model, batch, anatomy=anatomy, forward=default_forward)


def check_definition(truth: Truth, found: AttentionTensors) -> None:
    """Shapes, rows that sum to one over what the softmax runs over, and scores that are scaled products."""
    batch, n_heads, n_queries, n_keys = found.pattern.shape
    assert found.scores.shape == found.softmax_output.shape == found.pattern.shape
    assert n_heads == truth.n_heads
    for expected, got in ((truth.batch_size, batch), (truth.n_queries, n_queries), (truth.n_keys, n_keys)):
        assert not isinstance(expected, int) or expected == got
    dim = (
        {"keys": -1, "queries": -2, "heads": -3, "batch": 0}[truth.softmax_over]
        if truth.normaliser == "softmax"
        else 0
    )
    if truth.normaliser == "softmax":
        sums = found.softmax_output.nan_to_num(1.0 / n_keys).sum(dim)
        if found.allowed is not None and dim == -1:  # the fused kernel gives zeros where nothing is allowed
            sums = sums[found.allowed.expand_as(found.pattern).any(-1)]
        torch.testing.assert_close(sums, torch.ones_like(sums), **CLOSE)
    if found.query is not None and found.key is not None and found.raw_scores is not None:
        product = found.query @ found.key.transpose(-1, -2)
        torch.testing.assert_close(product, found.raw_scores, rtol=1e-4, atol=1e-5)
    if found.context is not None and found.value is not None:
        torch.testing.assert_close(found.pattern @ found.value, found.context, rtol=1e-4, atol=1e-5)
    if truth.head_layout == "ok" and found.hidden is not None:
        assert found.hidden.shape[:2] == (batch, n_queries)
    if truth.masks and truth.masks[0].when == "before_softmax":
        assert found.allowed is not None, "there is a mask, but allowed is None"
        assert found.allowed.dtype == torch.bool
        torch.broadcast_to(found.allowed, found.pattern.shape)


@pytest.mark.parametrize("row", params(OWN))
def test_against_the_models_own_record(row: Row) -> None:
    model, batch, observation = seen(row)
    keep: list[dict[str, Tensor]] = []
    with torch.no_grad():
        output = model(**batch, keep=keep) if isinstance(batch, dict) else model(batch, keep=keep)
    torch.testing.assert_close(observation.output, output)
    assert len(observation.attentions) == len(keep)
    for number, (truth, found, own) in enumerate(zip(row.truth, observation.attentions, keep, strict=True)):
        assert found.layer == number
        torch.testing.assert_close(found.pattern, own["pattern"], check_dtype=False, **CLOSE)
        torch.testing.assert_close(found.scores, own["scores"], check_dtype=False, **CLOSE)
        check_definition(truth, found)


@pytest.mark.parametrize("row", EAGER, ids=lambda row: row.name)
def test_against_output_attentions(row: Row) -> None:
    model, batch, observation = seen(row)
    with torch.no_grad():
        output = model(**batch, output_attentions=True)
    if hasattr(output, "decoder_attentions"):
        pairs = zip(output.decoder_attentions, output.cross_attentions, strict=True)
        expected = [*output.encoder_attentions, *(one for pair in pairs for one in pair)]
    else:
        expected = list(output.attentions)
    assert len(expected) == len(observation.attentions)
    for truth, found, pattern in zip(row.truth, observation.attentions, expected, strict=True):
        torch.testing.assert_close(found.pattern, pattern, **CLOSE)
        check_definition(truth, found)


@pytest.mark.parametrize("row", SDPA, ids=lambda row: row.name)
def test_fused_patterns_equal_eager_ones(row: Row) -> None:
    model, batch, observation = seen(row)
    model.config._attn_implementation = "eager"
    twin = copy.deepcopy(model)
    anatomy = trace(twin, batch)
    eager = observe(twin, batch, anatomy=anatomy, forward=default_forward)
    for truth, found, expected in zip(row.truth, observation.attentions, eager.attentions, strict=True):
        rows = expected.allowed.expand_as(expected.pattern).any(-1) if expected.allowed is not None else ...
        torch.testing.assert_close(found.pattern[rows], expected.pattern[rows], **CLOSE)
        check_definition(truth, found)


@pytest.mark.parametrize("row", MULTIHEAD, ids=lambda row: row.name)
def test_against_multihead_weights(row: Row) -> None:
    model, batch, observation = seen(row)
    asked = {**batch, "need_weights": True, "average_attn_weights": False}
    with torch.no_grad():
        output, pattern = model(**asked)
    torch.testing.assert_close(observation.attentions[0].pattern, pattern, **CLOSE)
    torch.testing.assert_close(observation.output[0], output, rtol=1e-4, atol=1e-5)
    check_definition(row.truth[0], observation.attentions[0])


@pytest.mark.parametrize("row", TORCH, ids=lambda row: row.name)
def test_definition_holds_for_torch_modules(row: Row) -> None:
    *_, observation = seen(row)
    assert len(observation.attentions) == len(row.truth)
    for truth, found in zip(row.truth, observation.attentions, strict=True):
        check_definition(truth, found)
