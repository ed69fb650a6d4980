"""A wrapper is unwrapped: what is found below it is what is found without it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from attnscope.anatomy.trace import trace

from .rows_hf import MODELS, ROWS
from .truth import P, Row, differences

DISTILBERT = next(row for row in ROWS if row.name == "DistilBERT eager eval")
GPT2 = next(row for row in ROWS if row.name == "GPT-2 sdpa eval")


def check(row: Row, wrapped: nn.Module, bare: nn.Module, batch: Any, **changes: Any) -> None:
    row = dataclasses.replace(row, **changes)
    found = differences(row, bare, trace(wrapped, batch))
    assert not found, "\n  " + "\n  ".join(found)


@pytest.mark.parametrize("row", [DISTILBERT, GPT2], ids=lambda row: row.name)
def test_compiled(row: Row) -> None:
    model, batch = row.make()
    model.eval()
    check(row, torch.compile(model, backend="eager"), model, batch, wrappers=("OptimizedModule",))


def test_data_parallel() -> None:
    model, batch = DISTILBERT.make()
    model.eval()
    check(DISTILBERT, nn.DataParallel(model), model, batch, wrappers=("DataParallel",))


@pytest.fixture
def one_process(tmp_path: Any) -> Iterator[None]:
    if not dist.is_available():
        pytest.skip("torch.distributed is not built in")
    try:
        dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    except RuntimeError as error:
        pytest.skip(f"gloo does not start here: {error}")
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_process")
def test_distributed_data_parallel() -> None:
    model, batch = GPT2.make()
    model.eval()
    wrapped = nn.parallel.DistributedDataParallel(model)
    check(GPT2, wrapped, model, batch, wrappers=("DistributedDataParallel",))


@pytest.mark.usefixtures("one_process")
def test_wrappers_inside_one_another() -> None:
    model, batch = GPT2.make()
    model.eval()
    wrapped = torch.compile(nn.parallel.DistributedDataParallel(model), backend="eager")
    check(GPT2, wrapped, model, batch, wrappers=("OptimizedModule", "DistributedDataParallel"))


def test_compiled_in_part() -> None:
    model, batch = DISTILBERT.make()
    model.eval()
    bare = copy.deepcopy(model)
    for layer in model.distilbert.transformer.layer:
        layer.compile(backend="eager")
    check(DISTILBERT, model, bare, batch)


def adapted(name: str, parts: tuple[P, ...], adapter: str) -> tuple[P, ...]:
    """The parameters of an adapted linear map: the old ones under another name, and two new ones."""
    moved = [P(f"{part.name.rsplit('.', 1)[0]}.base_layer.{part.name.rsplit('.', 1)[1]}") for part in parts]
    return (*moved, P(f"{name}.lora_A.{adapter}.weight"), P(f"{name}.lora_B.{adapter}.weight"))


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_lora(train: bool) -> None:
    peft = pytest.importorskip("peft")
    model, batch = MODELS["DistilBERT"][0](False), DISTILBERT.make()[1]
    config = peft.LoraConfig(r=3, lora_dropout=0.0, target_modules=["q_lin", "v_lin"])
    wrapped = peft.get_peft_model(model, config)
    wrapped.train(train)
    truths = []
    for truth in DISTILBERT.truth:
        heads = {role: both for role, both in truth.heads.items() if role in ("key", "output")}
        truths.append(
            dataclasses.replace(
                truth,
                heads=heads,
                query=adapted(f"{truth.module}.q_lin", truth.query, "default"),
                value=adapted(f"{truth.module}.v_lin", truth.value, "default"),
            )
        )
    anatomy = trace(wrapped, batch)
    row = dataclasses.replace(DISTILBERT, truth=tuple(truths), train=train, wrappers=anatomy.wrappers)
    found = differences(row, wrapped.base_model.model, anatomy)
    assert not found, "\n  " + "\n  ".join(found)
    assert any(name.startswith("Peft") for name in anatomy.wrappers)
    trainable = {block.name for block in anatomy.blocks if block.trainable}
    assert {anatomy.attentions[0].blocks["query"], anatomy.attentions[1].blocks["value"]} <= trainable
    assert anatomy.attentions[0].blocks["key"] not in trainable


class LitStandIn(nn.Module):
    """The shape of a Lightning module: the network is an attribute, forward calls it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.trainer = None

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.model(*inputs, **named)

    def training_step(self, batch: Any, number: int) -> torch.Tensor:
        return self(**batch).logits.square().mean()


def test_module_that_holds_the_network() -> None:
    model, batch = DISTILBERT.make()
    holder = LitStandIn(model).eval()
    anatomy = trace(holder, batch)
    prefix = "" if anatomy.wrappers else "model."
    found = differences(
        dataclasses.replace(DISTILBERT, prefix=prefix, wrappers=anatomy.wrappers),
        model if anatomy.wrappers else holder,
        anatomy,
    )
    assert not found, "\n  " + "\n  ".join(found)


def test_lightning_module() -> None:
    lightning = pytest.importorskip("pytorch_lightning", reason="pytorch-lightning is not installed")

    class Lit(lightning.LightningModule):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, *inputs: Any, **named: Any) -> Any:
            return self.model(*inputs, **named)

    model, batch = DISTILBERT.make()
    anatomy = trace(Lit(model).eval(), batch)
    prefix = "" if anatomy.wrappers else "model."
    found = differences(
        dataclasses.replace(DISTILBERT, prefix=prefix, wrappers=anatomy.wrappers), Lit(model), anatomy
    )
    assert not found, "\n  " + "\n  ".join(found)
