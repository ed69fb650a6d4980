"""The negative controls are what they claim: same function, a sink that is there, heads that are diffuse."""

from __future__ import annotations

import pytest
import torch
from planting.controls import LIBRARY_ROWS, ROWS, folded, permuted, rescaled, rescaled_fused, with_sink
from planting.families import LIBRARY, healthy_library
from planting.moment import training_cut_to
from planting.small import healthy

from attnscope.anatomy.observe import observe
from attnscope.anatomy.trace import trace
from attnscope.case import Case, default_forward
from attnscope.faults import copy_of

KEEPING = {
    "query and key": (
        "encoder",
        lambda case: rescaled(case, ("query.weight", "query.bias"), ("key.weight", "key.bias"), 64),
    ),
    "value and output": (
        "gpt",
        lambda case: rescaled(case, ("value.weight", "value.bias"), ("attention.output.weight",), 64),
    ),
    "heads": ("encoder", lambda case: permuted(case, ROWS, ("attention.output.weight",))),
    "norms": ("gpt", folded),
    "library heads": ("distilbert", lambda case: permuted(case, LIBRARY_ROWS, ("out_lin.weight",))),
    "library fused": ("gpt2", lambda case: rescaled_fused(case, 8)),
}


def made(name: str) -> Case:
    with training_cut_to(0.2):
        return healthy_library(name) if name in LIBRARY and name != "vit" else healthy(name)


def logits(case: Case) -> torch.Tensor:
    case.model.eval()
    with torch.no_grad():
        output = default_forward(case.model, next(iter(case.batches)))
    return getattr(output, "logits", output)


@pytest.mark.parametrize("name", KEEPING)
def test_the_function_stays(name: str) -> None:
    model, change = KEEPING[name]
    case = made(model)
    before = {key: value.clone() for key, value in case.model.state_dict().items()}
    wanted = logits(case)
    changed = change(copy_of(case))
    torch.testing.assert_close(logits(changed), wanted, rtol=1e-3, atol=1e-4)
    assert any(not torch.equal(value, before[key]) for key, value in changed.model.state_dict().items())


def test_the_sink_is_a_sink() -> None:
    case = made("gpt")
    healthy_loss = torch.nn.functional.cross_entropy(logits(case).flatten(0, 1), case.batches[0][1].flatten())
    sunk = with_sink(copy_of(case))
    batch = next(iter(sunk.batches))
    anatomy = trace(sunk.model, batch)
    pattern = observe(sunk.model, batch, anatomy=anatomy, forward=default_forward).attentions[-1].pattern
    assert pattern[:, 0, 4:, 0].mean() > 0.5
    loss = torch.nn.functional.cross_entropy(logits(sunk).flatten(0, 1), batch[1].flatten())
    assert loss < healthy_loss + 1.0
