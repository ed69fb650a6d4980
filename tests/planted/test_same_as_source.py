"""A fault injected from outside computes what the edited source computes: values and gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from planting.editing import Edit, edited
from planting.families import library_case
from planting.masks import ENCODER_MASK, ENCODER_SOFTMAX, GPT_MASK
from planting.scores import GPT_SCALE, GPT_SOFTMAX
from torch import Tensor, nn

from attnscope import catalogue
from attnscope.case import Case

TASKS = {"gpt": "copying", "encoder": "topic_and_place"}
ENCODER_PADDING = "padding = attention_mask[:, None, None, :] == 0"
PAIRS = [
    ("missing_scale", "gpt", [Edit(GPT_SCALE, "")]),
    ("missing_scale", "encoder", [Edit(GPT_SCALE, "")]),
    ("doubled_scale", "gpt", [Edit(GPT_SCALE, "scores = scores / self.d_head")]),
    ("future_leak", "gpt", [Edit(GPT_MASK, "")]),
    ("padding_attended", "encoder", [Edit(ENCODER_MASK, "")]),
    (
        "mask_after_softmax",
        "gpt",
        [
            Edit(GPT_MASK, ""),
            Edit(GPT_SOFTMAX, GPT_SOFTMAX + "\npattern = pattern * allowed"),
        ],
    ),
    (
        "mask_after_softmax",
        "encoder",
        [
            Edit(ENCODER_MASK, ""),
            Edit(ENCODER_SOFTMAX, ENCODER_SOFTMAX + "\npattern = pattern * ~padding"),
        ],
    ),
    (
        "padding_mask_inverted",
        "encoder",
        [
            Edit(
                ENCODER_PADDING,
                "padding = (attention_mask[:, None, None, :] == 1) & (attention_mask == 0)"
                ".any(-1)[:, None, None, None]",
            ),
        ],
    ),
    (
        "softmax_twice",
        "encoder",
        [
            Edit(
                ENCODER_SOFTMAX,
                ENCODER_SOFTMAX
                + "\nscores = pattern.masked_fill(padding, torch.finfo(scores.dtype).min)\n"
                + ENCODER_SOFTMAX,
            ),
        ],
    ),
    ("rows_not_normalised", "gpt", [Edit(GPT_SOFTMAX, "pattern = torch.sigmoid(scores)")]),
    (
        "softmax_wrong_axis",
        "encoder",
        [
            Edit(ENCODER_SOFTMAX, ENCODER_SOFTMAX.replace("-1", "-2") + ".masked_fill(padding, 0.0)"),
        ],
    ),
    (
        "cut_gradient",
        "gpt",
        [
            Edit("scores = query @ key.transpose(-2, -1)", "scores = query @ key.detach().transpose(-2, -1)"),
        ],
    ),
    ("uniform_attention", "gpt", [Edit(GPT_SCALE, "scores = scores * 0")]),
]


def gradients(model: nn.Module, inputs: object, targets: Tensor) -> tuple[Tensor, list[Tensor | None]]:
    model.eval()
    logits = model(**inputs) if isinstance(inputs, dict) else model(inputs)
    loss = nn.functional.cross_entropy(logits.flatten(0, -2), targets.flatten())
    return logits.detach(), list(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True))


@pytest.mark.parametrize(("fault", "model", "edits"), PAIRS, ids=[f"{pair[0]}-{pair[1]}" for pair in PAIRS])
def test_injected_equals_edited(fault: str, model: str, edits: list[Edit]) -> None:
    task = catalogue.load("tasks", TASKS[model])()
    sizes = {**task.sizes, "n_layers": 1}
    torch.manual_seed(0)
    healthy = catalogue.load("models", model)(**sizes)
    with torch.no_grad():
        for parameter in healthy.parameters():
            parameter.mul_(1.5)  # scores far enough from zero to tell a scale
    module, _ = edited(f"attnscope.models.{model}", *edits)
    written = getattr(module, catalogue.class_name(model))(**sizes)
    written.load_state_dict(healthy.state_dict())
    batch = task.batch(3, 8)
    injected = catalogue.load("faults", fault)().inject(Case(healthy, [batch], expects=task.expects))

    logits, grads = gradients(injected.model, *batch)
    wanted_logits, wanted = gradients(written, *batch)
    healthy_logits, healthy_grads = gradients(healthy, *batch)
    torch.testing.assert_close(logits, wanted_logits, rtol=1e-5, atol=1e-5)
    for one, two in zip(grads, wanted, strict=True):
        torch.testing.assert_close(
            torch.zeros(1) if one is None or not one.any() else one,
            torch.zeros(1) if two is None or not two.any() else two,
            rtol=1e-4,
            atol=1e-6,
        )
    changed = max(
        float((one - two).abs().max())
        for one, two in zip(grads, healthy_grads, strict=True)
        if one is not None and two is not None
    )
    assert changed > 1e-4 or not torch.allclose(logits, healthy_logits, atol=1e-4)


@pytest.mark.parametrize("fault", ["missing_scale", "padding_attended", "mask_after_softmax", "cut_gradient"])
def test_eager_and_sdpa_are_wrong_alike(fault: str) -> None:
    outputs = []
    for implementation in ("eager", "sdpa"):
        case = library_case("distilbert", steps=0, implementation=implementation, settings={"initializer_range": 0.3})
        injected = catalogue.load("faults", fault)(layer=1).inject(case)
        injected.model.eval()
        output = injected.model(**next(iter(injected.batches)))
        grads = torch.autograd.grad(output.loss, list(injected.model.parameters()), allow_unused=True)
        outputs.append([output.logits.detach(), *(each for each in grads if each is not None and each.any())])
    assert len(outputs[0]) == len(outputs[1])
    for one, two in zip(*outputs, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5)


def test_a_copy_of_an_injected_model_keeps_the_fault() -> None:
    task = catalogue.load("tasks", "copying")()
    torch.manual_seed(0)
    model = catalogue.load("models", "gpt")(**task.sizes)
    batch = task.batch(0, 4)
    injected = catalogue.load("faults", "future_leak")().inject(Case(model, [batch], expects=task.expects)).model
    assert torch.equal(copy.deepcopy(injected)(batch[0]), injected(batch[0]))
    assert not torch.allclose(injected(batch[0]), model(batch[0]))
    assert type(injected).__name__ == "Gpt"
