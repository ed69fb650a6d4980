"""Models and batches that cannot be watched: the error names the user's object; odd ones are watched all the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from attnscope.anatomy.trace import trace
from attnscope.errors import TraceError

from .test_observe import Attend


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attend, self.out = nn.Embedding(9, 6), Attend(), nn.Linear(6, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.attend(self.embed(tokens)).mean(1))


def test_a_model_that_raises() -> None:
    with pytest.raises(TraceError, match=r"Classifier raised IndexError on the batch \(.*\[2, 3\] torch.int64"):
        trace(Classifier(), torch.full((2, 3), 99))


def test_meta_tensors() -> None:
    with pytest.raises(TraceError, match=r"Classifier.embed.weight is a meta tensor"):
        trace(Classifier().to("meta"), torch.zeros(2, 3, dtype=torch.long))


def test_no_module() -> None:
    with pytest.raises(TraceError, match="found function"):
        trace(lambda x: x, torch.randn(2))  # type: ignore[arg-type]


def test_an_empty_batch_has_no_attention_to_show() -> None:
    anatomy = trace(Classifier(), torch.zeros(0, 3, dtype=torch.long))
    assert anatomy.attentions == ()
    assert "the batch is empty" in anatomy.notes[0]


def test_quantised_weights_are_named_as_such() -> None:
    try:
        model = torch.ao.quantization.quantize_dynamic(Classifier().eval(), {nn.Linear})
    except RuntimeError as error:
        pytest.skip(f"no quantised engine here: {error}")
    (attention,) = trace(model, torch.zeros(2, 5, dtype=torch.long)).attentions
    assert "query" not in attention.blocks
    assert any("quantised" in text for text in attention.unresolved)


def test_a_model_that_differentiates_inside() -> None:
    class Energy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attend = Attend()

        def forward(self, x: Tensor) -> Tensor:
            x = x.detach().requires_grad_(True)
            return torch.autograd.grad(self.attend(x).square().sum(), x)[0]

    anatomy = trace(Energy(), torch.randn(2, 5, 6))
    assert anatomy.attentions[0].n_heads == 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_precision_does_not_matter(dtype: torch.dtype) -> None:
    (attention,) = trace(Classifier().to(dtype), torch.zeros(2, 5, dtype=torch.long)).attentions
    assert (attention.n_heads, attention.scale) == (2, pytest.approx(3**-0.5))


def test_one_example_of_one_position() -> None:
    (attention,) = trace(Classifier(), torch.zeros(1, 1, dtype=torch.long)).attentions
    assert (attention.n_heads, attention.n_queries, attention.n_keys) == (2, 1, 1)
