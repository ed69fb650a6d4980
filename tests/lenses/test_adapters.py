"""LoRA as PEFT makes it: the identities see through it, and the adapter's own holds."""

from __future__ import annotations

import pytest
import torch

from attnscope.anatomy.trace import trace
from attnscope.anatomy.unwrap import unwrapped
from attnscope.lenses.lora_gradient_identity import LoraGradientIdentity
from attnscope.lenses.optimizer_coverage import OptimizerCoverage
from attnscope.lenses.query_key_gradient_identity import QueryKeyGradientIdentity
from attnscope.lenses.update_to_weight import UpdateToWeight
from attnscope.lenses.value_output_gradient_identity import ValueOutputGradientIdentity
from attnscope.probe import Probe

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module", params=["fresh", "trained"])
def probe(request: pytest.FixtureRequest) -> Probe:
    torch.manual_seed(0)
    config = transformers.DistilBertConfig(
        vocab_size=50, dim=16, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=16
    )
    model = peft.get_peft_model(
        transformers.DistilBertForSequenceClassification(config),
        peft.LoraConfig(r=3, lora_alpha=8, target_modules=["q_lin", "k_lin", "v_lin"], lora_dropout=0.1),
    )
    if request.param == "trained":
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
    tokens = torch.randint(3, 50, (4, 9))
    batch = {"input_ids": tokens, "labels": torch.tensor([0, 1, 0, 1])}
    inner = unwrapped(model)[0].eval()
    trained = [parameter for parameter in inner.parameters() if parameter.requires_grad]
    return Probe(
        model=inner, batches=(batch,), anatomy=trace(model, batch), optimizer=torch.optim.AdamW(trained, lr=1e-3)
    )


def test_the_adapter_keeps_its_own_identity(probe: Probe) -> None:
    reading = LoraGradientIdentity().measure(probe)
    assert len(reading.values) == 6
    assert reading.values.max() < 1e-4
    assert reading.facts["violated"] == []


def test_the_attention_keeps_its_own(probe: Probe) -> None:
    for lens in (QueryKeyGradientIdentity(), ValueOutputGradientIdentity()):
        reading = lens.measure(probe)
        assert not reading.facts.get("violated"), reading.values
        assert reading.ok
        assert reading.facts["skipped"] == {}


def test_a_frozen_body_is_no_gap(probe: Probe) -> None:
    coverage = OptimizerCoverage().measure(probe)
    assert coverage.facts["missing"] == []
    assert coverage.values.tolist() == [1.0] * len(coverage.values)
    assert "distilbert.embeddings.word_embeddings.weight" in coverage.facts["frozen"]
    assert UpdateToWeight().measure(probe).facts["still"] == []
