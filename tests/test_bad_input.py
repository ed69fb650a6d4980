"""Bad input: a clear error that names the user's object, and a model that is exactly as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from attnscope import Case, trace
from attnscope.anatomy.trace import trace as trace_of
from attnscope.case import Expectations, default_forward, default_loss
from attnscope.errors import AttnscopeError, CaseError, TraceError
from attnscope.examine import diagnose
from attnscope.lenses.future_token import FutureToken
from attnscope.lenses.non_finite import NonFinite
from attnscope.lenses.other_example import OtherExample
from attnscope.lenses.query_key_gradient_identity import QueryKeyGradientIdentity
from attnscope.probe import Probe


class Small(nn.Module):
    """One attention and a classifier, with a place for trouble before its output."""

    def __init__(self, trouble: Any = None) -> None:
        super().__init__()
        self.trouble = trouble
        self.embedding = nn.Embedding(11, 8)
        self.query, self.key, self.value, self.output = (nn.Linear(8, 8) for _ in range(4))
        self.norm = nn.BatchNorm1d(8)
        self.classifier = nn.Linear(8, 3)
        self.history: list[Tensor] = []
        self.seen = {"shapes": []}

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embedding(tokens)
        pattern = (self.query(hidden) @ self.key(hidden).transpose(1, 2) / 8**0.5).softmax(-1)
        hidden = hidden + self.output(pattern @ self.value(hidden))
        self.history.append(hidden.detach())
        self.seen["shapes"].append(hidden.shape)
        logits = self.classifier(self.norm(hidden.mean(1)))
        return self.trouble(self, logits) if self.trouble else logits


def pair(n: int = 4, length: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 11, (n, length), generator=generator), torch.randint(0, 3, (n,), generator=generator)


def fingerprint(model: nn.Module) -> dict[str, Any]:
    """All that a user could see of a model's state."""
    return {
        "state": {name: value.clone() for name, value in model.state_dict().items()},
        "grads": {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()},
        "requires": [p.requires_grad for p in model.parameters()],
        "training": [m.training for m in model.modules()],
        "names": [name for name, _ in model.named_modules()],
        "attributes": {name: sorted(m.__dict__) for name, m in model.named_modules()},
        "history": len(getattr(model, "history", [])),
        "seen": repr(getattr(model, "seen", None)),
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "random": (torch.get_rng_state(), np.random.get_state()[1].tolist()),
    }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


@contextlib.contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    before = fingerprint(model)
    try:
        yield
    finally:
        after = fingerprint(model)
        assert [name for name in before if not same(before[name], after[name])] == []


def probe_of(model: nn.Module, batch: Any, **more: Any) -> Probe:
    return Probe(model=model, batches=(batch,), anatomy=trace(model, batch), **more)


class TestCase:
    @pytest.mark.parametrize(
        ("model", "says"),
        [
            (Small, r"the class Small; pass an instance: Small\(\)"),
            (None, "torch.nn.Module, found NoneType"),
            ("model.pt", "found str"),
            ({"weight": torch.ones(1)}, "found dict"),
            (lambda x: x, "found function"),
        ],
    )
    def test_a_model_that_is_none(self, model: Any, says: str) -> None:
        with pytest.raises(CaseError, match=says):
            Case(model, [pair()])

    @pytest.mark.parametrize(
        ("batches", "says"),
        [
            (None, "at least one batch, found None"),
            ([], r"\(list\) is empty"),
            (iter(()), "exhausted"),
            (3, "found int"),
            ("data.csv", "found str"),
            (object(), "cannot be iterated"),
            ([None], "batch 0 is None"),
            ([pair(), None], "batch 1 is None"),
            ([5], "batch 0 is the number 5"),
            ([(torch.zeros(0, 4).long(), torch.zeros(0).long())], r"batch 0\[0\] holds no example.*\(0, 4\)"),
            ({"input_ids": torch.zeros(0, 4)}, r"\['input_ids'\] holds no example"),
            ([{"x": torch.zeros(2, 2, device="meta")}], r"\['x'\] is on the meta device"),
        ],
    )
    def test_batches_that_are_none(self, batches: Any, says: str) -> None:
        with pytest.raises(CaseError, match=says):
            Case(Small(), batches)

    def test_a_source_that_fails_is_named_with_its_error(self) -> None:
        def source() -> Iterator[Any]:
            yield pair()
            raise OSError("disk gone")

        with pytest.raises(CaseError, match=r"generator.*OSError when batch 1 was read: disk gone"):
            Case(Small(), source())

    def test_an_exhausted_iterator_says_so(self) -> None:
        batches = iter([pair()])
        assert len(Case(Small(), batches).batches) == 1
        with pytest.raises(CaseError, match="exhausted by an earlier pass"):
            Case(Small(), batches)

    def test_an_endless_source_is_read_for_as_many_as_are_wanted(self) -> None:
        def source() -> Iterator[Any]:
            while True:
                yield pair()

        assert len(Case(Small(), source(), max_batches=3).batches) == 3
        with pytest.raises(CaseError, match="max_batches must be at least 1"):
            Case(Small(), [pair()], max_batches=0)

    def test_one_batch_alone_is_a_list_of_one(self) -> None:
        for batch in (pair(), {"x": torch.ones(2)}, torch.ones(2, 2), ({"x": torch.ones(2)}, torch.ones(2))):
            assert len(Case(Small(), batch).batches) == 1
        assert len(Case(Small(), [pair(), pair(2)]).batches) == 2

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            ({"loss": "cross_entropy"}, "Case.loss must be a function, found str"),
            ({"forward": 3}, "Case.forward must be a function"),
            ({"optimizer": "adam"}, "torch.optim.Optimizer, found str"),
            ({"expects": {"casual": True}}, "'casual'; it may have causal"),
            ({"expects": ["causal"]}, "must be a mapping"),
            ({"expects": {"causal": "yes"}}, r"expects\['causal'\] must be bool or Mapping, found 'yes'"),
            ({"expects": {"padding_token": True}}, "must be int"),
            ({"expects": {"padding_mask": 1.5}}, "must be str or int"),
        ],
    )
    def test_other_arguments(self, arguments: dict[str, Any], says: str) -> None:
        with pytest.raises(CaseError, match=says):
            Case(Small(), [pair()], **arguments)

    def test_weights_without_numbers_or_gradients_are_named(self) -> None:
        with torch.device("meta"):
            empty = Small()
        with pytest.raises(CaseError, match=r"Small\.embedding\.weight is on the meta device.*load the weights"):
            Case(empty, [pair()])
        with pytest.raises(TraceError, match=r"Small\.embedding\.weight is a meta tensor"):
            trace(empty, pair())
        sparse = Small()
        sparse.query.weight = nn.Parameter(torch.eye(8).to_sparse())
        with pytest.raises(CaseError, match=r"Small\.query\.weight is sparse.*to_dense"):
            Case(sparse, [pair()])

    @pytest.mark.filterwarnings("ignore")
    def test_quantised_weights_are_named(self) -> None:
        if not torch.backends.quantized.supported_engines or torch.backends.quantized.engine == "none":
            pytest.skip("this torch has no engine for quantised numbers")
        quantised = torch.ao.quantization.quantize_dynamic(Small().eval(), {nn.Linear}, dtype=torch.qint8)
        with pytest.raises(CaseError, match=r"Small\.query is a quantised.*before quantisation"):
            Case(quantised, [pair()])
        buffered = Small()
        buffered.register_buffer("table", torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8))
        with pytest.raises(CaseError, match=r"Small\.table is quantised"):
            Case(buffered, [pair()])


class TestModelsThatRaise:
    def test_the_batch_and_what_was_said_are_in_the_message(self) -> None:
        model = Small()
        batch = (torch.full((4, 6), 99), torch.zeros(4).long())
        with (
            unchanged(model),
            pytest.raises(AttnscopeError, match=r"Small raised IndexError on the batch.*6.*index out"),
        ):
            trace(model, batch)
        anatomy = trace(model, pair())
        probe = Probe(model=model, batches=(batch,), anatomy=anatomy)
        with (
            unchanged(model),
            pytest.raises(CaseError, match=r"Small raised IndexError on the batch \(tuple: \[0\] \(4, 6\) int64"),
        ):
            probe.output()
        with unchanged(model), pytest.raises(AttnscopeError, match="Small raised IndexError"):
            diagnose(model, [batch], effort="light")

    def test_a_batch_on_another_device(self) -> None:
        model = Small()
        probe = Probe(model=model, batches=(torch.zeros(2, 3, device="meta"),), anatomy=trace(model, pair()))
        with (
            unchanged(model),
            pytest.raises(CaseError, match=r"the batch is on meta and the model on cpu: move the batch"),
        ):
            probe.output()

    def test_batches_of_other_shapes_are_taken_one_by_one(self) -> None:
        model = Small()
        anatomy = trace(model, pair())
        probe = Probe(model=model, batches=(pair(), pair(2, 3), pair(5, 9)), anatomy=anatomy)
        with unchanged(model):
            for batch in probe.batches:
                assert probe.output(batch).shape == (len(batch[0]), 3)
                assert probe.gradients_of(batch)["query.weight"] is not None
                assert len(probe.observation_of(batch).attentions) == 1

    @pytest.mark.parametrize("not_a_model", [None, 3, "x", Small, [Small()]])
    def test_what_is_no_model_is_said_by_each_verb(self, not_a_model: Any) -> None:
        with pytest.raises(AttnscopeError, match="Module"):
            trace(not_a_model, pair())
        with pytest.raises(AttnscopeError, match="Module"):
            diagnose(not_a_model, [pair()])


class TestLosses:
    @pytest.mark.parametrize(
        ("loss", "says"),
        [
            (lambda o, b: o, r"scalar tensor, found shape \(4, 3\); reduce it with .mean\(\)"),
            (lambda o, b: float(o.sum()), r"Python number.*without .item\(\)"),
            (lambda o, b: None, "found NoneType"),
            (lambda o, b: o.argmax(), "found torch.int64"),
            (lambda o, b: o.sum().to(torch.complex64), "found torch.complex64"),
            (lambda o, b: 1 / 0, r"the loss raised ZeroDivisionError.*a \(4, 3\) tensor of float32"),
            (lambda o, b: b["labels"], "the loss raised TypeError"),
        ],
    )
    def test_a_loss_that_is_none(self, loss: Any, says: str) -> None:
        model = Small()
        with unchanged(model), pytest.raises(CaseError, match=says):
            probe_of(model, pair(), loss=loss).loss_value

    @pytest.mark.parametrize(
        "loss",
        [
            lambda o, b: o.detach().sum(),
            lambda o, b: torch.tensor(1.0),
            lambda o, b: torch.ones(3, requires_grad=True).sum() * 0 + o.detach().mean(),
        ],
        ids=["detached", "constant", "of another tensor"],
    )
    def test_a_loss_that_no_parameter_moves(self, loss: Any) -> None:
        model = Small()
        probe = probe_of(model, pair(), loss=loss)
        with unchanged(model), contextlib.suppress(CaseError):
            assert all(value is None for value in probe.gradients.values())

    def test_a_detached_loss_is_said_to_be_one(self) -> None:
        probe = probe_of(Small(), pair(), loss=lambda output, batch: output.detach().sum())
        with pytest.raises(CaseError, match="does not depend on any parameter of Small: it was detached"):
            probe.gradients

    def test_a_loss_that_is_not_finite_is_a_finding_and_no_error(self) -> None:
        model = Small()
        probe = probe_of(model, pair(), loss=lambda o, b: (o * float("nan")).sum())
        with unchanged(model):
            assert np.isnan(probe.loss_value)
            assert NonFinite().measure(probe).at(place="loss") == 1

    @pytest.mark.parametrize(
        ("output", "batch", "says"),
        [
            (torch.ones(4, 3), torch.ones(4), "pass `loss=lambda output, batch"),
            (torch.ones(4, 3), (torch.ones(4), torch.ones(4, 2).long()), r"targets have shape \(4, 2\)"),
            (torch.ones(4, 3), (torch.ones(4), torch.ones(4)), "targets are .* floats"),
            ("text", (torch.ones(4), torch.ones(4)), "returned str"),
        ],
    )
    def test_what_the_default_cannot_serve(self, output: Any, batch: Any, says: str) -> None:
        with pytest.raises(CaseError, match=says):
            default_loss(output, batch)


class TestModelsThatChangeThemselves:
    def test_statistics_caches_and_counters(self) -> None:
        model = Small().train()
        model(pair()[0])
        probe = probe_of(model, pair())
        with unchanged(model):
            probe.gradients_of(pair(), train=True)
            probe.observation
            FutureToken().measure(probe)
            QueryKeyGradientIdentity().measure(probe)

    def test_a_lazy_model_is_probed_and_stays_unbuilt(self) -> None:
        model = Small()
        model.classifier = nn.LazyLinear(3)
        case = Case(model, [pair()])
        probe = Probe(model=case.model, batches=tuple(case.batches), anatomy=trace(model, pair()))
        assert probe.gradients["classifier.weight"].shape == (3, 8)
        assert OtherExample().measure(probe).ok
        first, second = probe.output(), probe.output()
        assert torch.equal(first, second)
        assert type(model.classifier) is nn.LazyLinear
        assert isinstance(model.classifier.weight, nn.UninitializedParameter)

    def test_a_model_that_builds_a_module_in_its_first_pass(self) -> None:
        def build(model: Small, logits: Tensor) -> Tensor:
            if not hasattr(model, "late"):
                model.late = nn.Linear(3, 3)
            return model.late(logits)

        model = Small(build)
        probe = probe_of(model, pair())
        with unchanged(model):
            assert probe.gradients["late.weight"] is not None
            assert torch.equal(probe.output(), probe.output())
        assert not hasattr(model, "late")


class Interrupted:
    """Raises in the n-th forward pass."""

    def __init__(self, at: int, error: type[BaseException]) -> None:
        self.at, self.error, self.passes = at, error, 0

    def __call__(self, model: nn.Module, batch: Any) -> Any:
        self.passes += 1
        if self.passes == self.at:
            with torch.no_grad():
                model.query.weight.mul_(2)
            model.norm.eval()
            model.left = "behind"
            raise self.error
        return default_forward(model, batch)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, RecursionError])
@pytest.mark.parametrize("at", [1, 2, 3, 5])
def test_an_exception_at_any_pass_leaves_the_model_as_it_was(error: type[BaseException], at: int) -> None:
    model = Small().train()
    anatomy = trace(model, pair())
    for work in (
        lambda forward: trace_of(model, pair(), forward),
        lambda forward: Probe(model=model, batches=(pair(),), anatomy=anatomy, forward=forward).gradients,
        lambda forward: FutureToken().measure(Probe(model=model, batches=(pair(),), anatomy=anatomy, forward=forward)),
        lambda forward: QueryKeyGradientIdentity().measure(
            Probe(model=model, batches=(pair(),), anatomy=anatomy, forward=forward)
        ),
    ):
        with unchanged(model), contextlib.suppress(error, AttnscopeError):
            work(Interrupted(at, error))


class Hostile:
    """An object whose every use fails."""

    def __iter__(self) -> Iterator[Any]:
        raise RuntimeError("hostile")

    def __len__(self) -> int:
        raise RuntimeError("hostile")

    def __bool__(self) -> bool:
        raise RuntimeError("hostile")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("hostile")

    __hash__ = None

    def __float__(self) -> float:
        raise RuntimeError("hostile")


junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=4),
    st.just(Hostile()),
    st.just(object()),
    st.just(Small),
    st.just(np.ones(3)),
    st.just(torch.ones(())),
    st.just(torch.zeros(0)),
    st.just(torch.ones(2, 3)),
    st.just(torch.ones(1, dtype=torch.bool)),
    st.just(torch.empty(2, device="meta")),
    st.just(torch.eye(3).to_sparse()),
)
nested = st.recursive(
    junk,
    lambda inner: (
        st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(model=nested, batches=nested, expects=nested, loss=nested, optimizer=nested)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_junk_for_a_case(model: Any, batches: Any, expects: Any, loss: Any, optimizer: Any) -> None:
    for arguments in (
        {"model": model, "batches": batches},
        {"model": Small(), "batches": batches, "expects": expects},
        {"model": Small(), "batches": [pair()], "loss": loss, "optimizer": optimizer, "expects": expects},
    ):
        with contextlib.suppress(AttnscopeError):
            case = Case(**arguments)
            assert case.batches
            assert isinstance(case.expects, Expectations)


@given(batch=nested)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_junk_for_a_batch(batch: Any) -> None:
    model = Small()
    anatomy = trace(model, pair())
    with unchanged(model):
        with contextlib.suppress(AttnscopeError):
            trace(model, batch)
        probe = Probe(model=model, batches=(batch,), anatomy=anatomy)
        for work in (probe.output, lambda: probe.loss_value, lambda: probe.gradients):
            with contextlib.suppress(AttnscopeError):
                work()


@given(model=nested, batch=nested)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_junk_for_a_trace(model: Any, batch: Any) -> None:
    with contextlib.suppress(AttnscopeError):
        trace(model, batch)


@given(output=nested, loss=nested)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_junk_from_a_model_and_a_loss(output: Any, loss: Any) -> None:
    class Odd(Small):
        def forward(self, tokens: Tensor) -> Any:
            super().forward(tokens)
            return output

    model = Odd()
    with unchanged(model):
        for function in (default_loss, lambda out, batch: loss):
            with contextlib.suppress(AttnscopeError):
                anatomy = trace(model, pair())
                Probe(model=model, batches=(pair(),), anatomy=anatomy, loss=function).gradients


def test_nothing_is_ever_unpickled(monkeypatch: pytest.MonkeyPatch) -> None:
    import pickle
    from pathlib import Path

    import attnscope

    source = Path(attnscope.__file__).parent
    for path in source.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "import pickle" not in text, path
        assert "torch.load(" not in text, path
        assert "allow_pickle=True" not in text, path

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("something was unpickled")

    monkeypatch.setattr(pickle, "loads", refuse)
    monkeypatch.setattr(pickle, "load", refuse)
    model = Small()
    assert probe_of(model, pair()).gradients
