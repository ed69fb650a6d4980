"""Whatever happens inside `undisturbed`, the model is as before: by value, by identity, and after Ctrl-C."""

import os
import random
import signal
from collections import deque

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attnscope.errors import AttnscopeError
from attnscope.undisturbed import is_unbuilt, undisturbed


class Keeper(nn.Module):
    """A model that holds every kind of state a forward pass may change."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.hidden = [nn.Linear(4, 4)]
        self.register_buffer("count", torch.zeros(()))
        self.plain = torch.arange(4.0)
        self.cache = {"keys": [torch.ones(2)], "deep": {"er": [1, 2]}}
        self.queue = deque([1, 2])
        self.names = {"a"}
        self.array = np.arange(3.0)
        self.generator = torch.Generator().manual_seed(1)
        self.numpy_generator = np.random.default_rng(2)
        self.python_generator = random.Random(3)
        self.state = type("State", (), {})()
        self.state.steps = 0
        self.tag = "before"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        self.plain.add_(1)
        self.cache["keys"].append(x)
        self.cache["deep"]["er"].append(3)
        self.cache["new"] = 1
        self.queue.append(3)
        self.names.add("b")
        self.array += 1
        torch.rand(1, generator=self.generator)
        self.numpy_generator.random()
        self.python_generator.random()
        self.state.steps += 1
        self.tag = "after"
        self.extra = nn.Linear(4, 4)
        return self.drop(self.norm(self.hidden[0](self.linear(x))))


def snapshot(model: Keeper) -> dict:
    return {
        "state": {name: value.clone() for name, value in model.state_dict().items()},
        "hidden": model.hidden[0].weight.detach().clone(),
        "plain": model.plain.clone(),
        "cache": repr(model.cache),
        "queue": list(model.queue),
        "names": set(model.names),
        "array": model.array.copy().tolist(),
        "generator": model.generator.get_state(),
        "numpy": repr(model.numpy_generator.bit_generator.state),
        "python": model.python_generator.getstate(),
        "steps": model.state.steps,
        "tag": model.tag,
        "training": [module.training for module in model.modules()],
        "requires": [parameter.requires_grad for parameter in model.parameters()],
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "modules": [name for name, _ in model.named_modules()],
        "attributes": list(model.__dict__),
        "hooks": (len(model._forward_hooks), len(model.linear.weight._backward_hooks or {})),
        "ids": [id(p) for p in model.parameters()] + [p.data_ptr() for p in model.parameters()],
        "random": (torch.get_rng_state(), repr(np.random.get_state()), random.getstate()),
        "switches": (torch.get_default_dtype(), torch.is_grad_enabled()),
    }


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def changes(before: dict, after: dict) -> list[str]:
    return [name for name in before if not same(before[name], after[name])]


@pytest.fixture
def model() -> Keeper:
    torch.manual_seed(0)
    model = Keeper()
    model.norm.eval()
    model.linear.bias.requires_grad_(False)
    model.linear(torch.ones(1, 4)).sum().backward()
    return model


def disturb(model: Keeper) -> None:
    model(torch.randn(3, 4)).sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
        model.hidden[0].weight.zero_()
    model.linear.weight.data = torch.zeros(2, 2)
    model.norm.weight.data = model.norm.weight.data.double()
    model.linear.weight.register_hook(lambda gradient: gradient)
    model.register_forward_hook(lambda *args: None)
    model.linear.bias.requires_grad_(True)
    model.drop = nn.Identity()
    del model.tag
    model.train()
    random.random()
    np.random.random()
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)


def test_everything_is_put_back(model: Keeper) -> None:
    before = snapshot(model)
    with undisturbed(model, seed=5, train=True):
        disturb(model)
        assert changes(before, {**snapshot_safely(model)}), "the disturbance must be one"
    assert changes(before, snapshot(model)) == []


def snapshot_safely(model: Keeper) -> dict:
    model.tag = "gone"
    return snapshot(model)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, MemoryError])
def test_everything_is_put_back_after_an_error(model: Keeper, error: type[BaseException]) -> None:
    before = snapshot(model)

    def run() -> None:
        with undisturbed(model, seed=5, train=False):
            disturb(model)
            raise error

    with pytest.raises(error):
        run()
    assert changes(before, snapshot(model)) == []


def test_ctrl_c_during_the_restoration_waits_for_it(model: Keeper) -> None:
    class Cache(list):
        def clear(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            super().clear()

    model.interrupting = Cache([1])
    before = snapshot(model)

    def run() -> None:
        with undisturbed(model):
            model.interrupting.append(2)
            disturb(model)

    with pytest.raises(KeyboardInterrupt):
        run()
    assert list(model.interrupting) == [1]
    assert changes(before, snapshot(model)) == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_one_failing_part_is_named_and_keeps_no_other_from_its_state(model: Keeper) -> None:
    class Stubborn(list):
        def extend(self, items: object) -> None:
            raise OSError("no")

    model.stubborn = Stubborn([1])
    before = snapshot(model)

    def run() -> None:
        with undisturbed(model):
            model.stubborn.append(2)
            disturb(model)

    with pytest.raises(AttnscopeError, match=r"Stubborn.*no"):
        run()
    after = snapshot(model)
    assert changes(before, after) == []


def test_the_seed_makes_the_block_repeat_and_leaves_the_stream_alone() -> None:
    model = nn.Dropout(0.5)
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    with undisturbed(model, seed=1, train=True):
        first = model(torch.ones(100))
    with undisturbed(model, seed=1, train=True):
        second = model(torch.ones(100))
    assert torch.equal(first, second)
    assert torch.equal(torch.rand(3), expected)


def test_gradients_that_were_absent_are_absent_again() -> None:
    model = nn.Linear(2, 2)
    with undisturbed(model):
        model(torch.ones(1, 2)).sum().backward()
        assert model.weight.grad is not None
    assert model.weight.grad is None


def test_batch_norm_statistics_and_counter() -> None:
    model = nn.BatchNorm1d(3)
    with undisturbed(model, train=True):
        model(torch.randn(5, 3) + 7)
        assert float(model.running_mean.sum()) != 0
    assert float(model.running_mean.abs().sum()) == 0
    assert int(model.num_batches_tracked) == 0


def test_a_lazy_model_stays_lazy() -> None:
    model = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d())
    originals = dict(model.named_parameters())
    assert is_unbuilt(model)
    with undisturbed(model, seed=0) as inside:
        assert inside(torch.randn(4, 5)).shape == (4, 3)
        assert not is_unbuilt(model)
    assert is_unbuilt(model)
    assert type(model[0]) is nn.LazyLinear
    assert all(value is originals[name] for name, value in model.named_parameters())
    assert model(torch.randn(4, 7)).shape == (4, 3), "the user may still build it for another width"


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Parameter(torch.tensor([float("nan"), -0.0, float("inf")])),
        lambda: nn.Parameter(torch.randn(3).to(torch.bfloat16)),
        lambda: nn.Parameter(torch.randn(3, dtype=torch.complex64)),
        lambda: nn.Parameter(torch.randn(3, 3).to_sparse()),
        lambda: nn.Parameter(torch.arange(3), requires_grad=False),
        lambda: torch.quantize_per_tensor(torch.randn(3), 0.1, 0, torch.quint8),
        lambda: torch.zeros(1).expand(4),
        lambda: torch.empty(2, device="meta"),
    ],
    ids=["nan", "bfloat16", "complex", "sparse", "integer", "quantised", "expanded", "meta"],
)
def test_unusual_tensors_survive(make) -> None:
    model = nn.Module()
    model.value = make()
    before = model.value
    shown = repr(before)
    with undisturbed(model, seed=0, train=False):
        model.value = None
        with torch.no_grad():
            plain = before.layout is torch.strided and not before.is_meta and not before.is_quantized
            if plain and before.stride() != (0,):
                before.mul_(0)
    assert model.value is before
    assert repr(before) == shown


def test_inference_tensors_are_read_and_restored() -> None:
    with torch.inference_mode():
        model = nn.Linear(2, 2)
    weight = model.weight.clone()
    with undisturbed(model, train=False), torch.inference_mode():
        model.weight.zero_()
    assert torch.equal(model.weight, weight)


def test_shared_storage_stays_shared() -> None:
    model = nn.Module()
    base = torch.arange(6.0)
    model.whole = nn.Parameter(base)
    model.part = model.whole.data[:3]
    with undisturbed(model):
        model.part.zero_()
    assert model.whole.tolist() == [0, 1, 2, 3, 4, 5]
    model.part[0] = 9
    assert float(model.whole[0].detach()) == 9


def test_it_nests() -> None:
    model = nn.Linear(2, 2)
    weight = model.weight.detach().clone()
    with undisturbed(model):
        with torch.no_grad():
            model.weight.zero_()
        with undisturbed(model), torch.no_grad():
            model.weight.fill_(1)
        assert float(model.weight.detach().abs().sum()) == 0
    assert torch.equal(model.weight, weight)


def test_objects_in_a_loop_do_not_hang() -> None:
    model = nn.Linear(2, 2)
    model.loop = {"self": [model]}
    model.loop["loop"] = model.loop
    with undisturbed(model):
        model.loop["new"] = 1
    assert "new" not in model.loop


actions = st.lists(
    st.sampled_from(
        [
            lambda m: m(torch.randn(2, 4)),
            lambda m: m.train(),
            lambda m: m.eval(),
            lambda m: m.half(),
            lambda m: m.double(),
            lambda m: m.zero_grad(),
            lambda m: m.requires_grad_(False),
            lambda m: m.linear.weight.data.zero_(),
            lambda m: setattr(m, "linear", nn.Linear(1, 1)),
            lambda m: delattr(m, "norm"),
            lambda m: m.cache.clear(),
            lambda m: m.register_buffer("more", torch.ones(1)),
            lambda m: m.register_forward_pre_hook(lambda *a: None),
            lambda m: setattr(m.count, "note", 1),
            lambda m: 1 / 0,
        ]
    ),
    max_size=6,
)


@given(actions=actions)
@settings(max_examples=40, deadline=None)
def test_any_sequence_of_disturbances(actions) -> None:
    model = Keeper()
    before = snapshot(model)
    try:
        with undisturbed(model, seed=1):
            for action in actions:
                action(model)
    except Exception:
        pass
    assert changes(before, snapshot(model)) == []
    assert not hasattr(model.count, "note")
