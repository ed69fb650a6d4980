"""Which tokens are real, as each attention of a model sees them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import small_probes
from attnscope.anatomy.blocks import Kind
from attnscope.anatomy.trace import trace
from attnscope.case import Expectations
from attnscope.lenses._padding import follow, real_tokens
from attnscope.lenses.padding_mass import PaddingMass
from attnscope.probe import Probe


def test_a_document_pads_words_and_sentences() -> None:
    probe = small_probes.probe("han")
    documents = probe.batch[0]
    words, sentences = (real_tokens(probe, index) for index in range(2))
    assert words.keys is not None
    assert torch.equal(words.keys, (documents != 0).view(9, 5))
    assert sentences.keys is not None
    assert torch.equal(sentences.keys, (documents != 0).any(-1))
    assert words.queries is None
    reading = PaddingMass().measure(probe)
    assert reading.values.max() == 0
    assert reading.facts["masked_by_trace"] == [True, True]


def seq2seq(expects: dict[str, Any], **more: Any) -> Probe:
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    config = T5Config(
        vocab_size=17,
        d_model=12,
        d_kv=4,
        d_ff=16,
        num_layers=1,
        num_decoder_layers=1,
        num_heads=3,
        decoder_start_token_id=0,
        pad_token_id=0,
        dropout_rate=0.0,
    )
    model = T5ForConditionalGeneration(config).eval()
    tokens = torch.randint(1, 17, (3, 6))
    mask = torch.ones(3, 6, dtype=torch.long)
    mask[0, 4:] = mask[2, 2:] = 0
    batch = {
        "input_ids": tokens * mask,
        "attention_mask": mask,
        "decoder_input_ids": torch.randint(1, 17, (3, 6)),
        "use_cache": False,
        **more,
    }
    return Probe(model=model, batches=(batch,), anatomy=trace(model, batch), expects=Expectations.of(expects))


@pytest.mark.parametrize("expects", [{"padding_mask": "attention_mask"}, {"padding_token": 0}])
def test_a_decoder_of_the_same_length_does_not_take_the_mask_of_the_encoder(expects: dict[str, Any]) -> None:
    probe = seq2seq(expects)
    mask = probe.batch["attention_mask"].bool()
    for index, attention in enumerate(probe.anatomy.attentions):
        found = real_tokens(probe, index)
        decoder = attention.causal_source != "" and attention.kind is Kind.SELF
        if decoder or (attention.kind is Kind.CROSS and "padding_mask" in expects):
            own = found.keys if decoder else found.queries
            assert own is None or bool(own.all())
        if not decoder:
            assert found.keys is not None
            assert torch.equal(found.keys, mask)
    reading = PaddingMass().measure(probe)
    assert reading.ok
    assert reading.values[[0, 2]].max() == 0


def test_a_mask_of_four_axes_is_understood() -> None:
    probe = seq2seq({"padding_mask": "attention_mask"})
    wide = probe.batch["attention_mask"][:, None, None, :].float()
    again = Probe(
        model=probe.model,
        batches=({**probe.batch, "mask4": wide},),
        anatomy=probe.anatomy,
        expects=Expectations(padding_mask="mask4"),
    )
    again.__dict__["observation"] = probe.observation
    found, known = real_tokens(again, 0).keys, real_tokens(probe, 0).keys
    assert found is not None
    assert known is not None
    assert torch.equal(found, known)


def test_paths_lead_to_their_tensors_or_nowhere() -> None:
    tensor = torch.zeros(1)
    batch = ({"input_ids": tensor, "nested": [tensor + 1]}, tensor + 2)
    assert follow(batch, "[0]['input_ids']") is tensor
    assert float(follow(batch, '[0]["nested"][0]')) == 1
    assert float(follow(batch, "[1]")) == 2
    assert follow(batch, "[0]['absent']") is None
    assert follow(batch, "[7].shape") is None
