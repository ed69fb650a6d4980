"""The dispatch record: every operation of one forward pass, which tensors it read and which it made.

The mode sits below autograd in the dispatcher, so composite operations (`linear`, `softmax`, `dropout`,
`scaled_dot_product_attention`) arrive whole, in train and in eval mode, and whatever kernel they end in.
In-place operations make a new `Value` of the same tensor; a tensor that shares memory with a changed one
is brought up to date by a pseudo-operation `written` when it is next read.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from attnscope.anatomy.blocks import Source
from attnscope.anatomy.frames import followed_modules, source_of, user_place
from attnscope.anatomy.vocabulary import DROPOUT, FACTORY, WHOLE, base_name

Replace = Mapping[int, Callable[[Tensor, tuple[Any, ...]], Tensor]]


@dataclass(eq=False)
class Value:
    """A tensor at one moment.

    Attributes:
        number: order of making.
        tensor: kept alive, so that its identity and memory are never reused.
        producer: the operation that made it; None for a parameter, buffer, batch tensor or constant.
        output: which of the producer's outputs it is.
        leaf: `parameter`, `buffer`, `input` or `constant` when it has no producer.
        name: of the parameter or buffer, or the path in the batch.
        params, inputs: bit masks of the parameters and batch tensors that it was computed from.
        consumers: operations that read it.
        stride, offset: its place in its memory when it was made.
    """

    number: int
    tensor: Tensor
    producer: Operation | None = None
    output: int = 0
    leaf: str = ""
    name: str = ""
    params: int = 0
    inputs: int = 0
    consumers: list[Operation] = field(default_factory=list)
    writes_seen: int = 0
    stride: tuple[int, ...] = ()
    offset: int = 0

    def __post_init__(self) -> None:
        if self.tensor.layout is torch.strided:
            self.stride, self.offset = tuple(self.tensor.stride()), int(self.tensor.storage_offset())

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return tuple(self.tensor.shape)

    @property
    def numel(self) -> int:
        """How many elements it has."""
        return self.tensor.numel()

    def __repr__(self) -> str:
        made = self.producer.name if self.producer else self.leaf
        return f"<{self.number} {made} {list(self.shape)}>"


@dataclass(eq=False)
class Operation:
    """One dispatched operation. `args` and `kwargs` hold a `Value` wherever the call held a tensor.

    Attributes:
        index: its number among the dispatched operations (`written` carries that of the latest).
        name: without namespace, overload and in-place underscore.
        module: path of the innermost module that was executing.
        place: code object and line of the user's frame.
    """

    index: int
    name: str
    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: tuple[Value, ...]
    module: str = ""
    place: tuple[CodeType, int] | None = None
    outputs: list[Value] = field(default_factory=list)

    @property
    def source(self) -> Source | None:
        """The user's line."""
        return source_of(self.place)

    @property
    def out(self) -> Value:
        """Its first output."""
        return self.outputs[0]

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument, given by position or by name."""
        if len(self.args) > position:
            return self.args[position]
        return self.kwargs.get(name, default)

    def __repr__(self) -> str:
        return f"<op {self.index} {self.name} {self.inputs} -> {self.outputs}>"


@dataclass
class Record:
    """Everything that one forward pass did."""

    operations: list[Operation] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    parameters: dict[str, nn.Parameter] = field(default_factory=dict)
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    result: Any = None
    n_dispatched: int = 0

    def parameters_in(self, mask: int) -> list[str]:
        """The names behind a bit mask."""
        return [name for bit, name in enumerate(self.parameters) if mask >> bit & 1]


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes a `Record` while it is active. With `grad`, every operation runs with its autograd graph."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """The compiler is never reached from here, and loading it to switch it off takes seconds."""
        return False

    def __init__(self, model: nn.Module, batch: Any, stack: list[str], *, grad: bool, replace: Replace | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.record = Record(parameters=dict(model.named_parameters()))
        self._stack = stack
        self._grad = grad
        self._replace = replace or {}
        self._current: dict[int, Value] = {}
        self._writes: dict[int, list[Value]] = {}
        self._kept_alive: list[Tensor] = []
        for bit, (name, parameter) in enumerate(self.record.parameters.items()):
            self._leaf(parameter, "parameter", name).params = 1 << bit
        for name, buffer in model.named_buffers():
            if id(buffer) not in self._current:
                self._leaf(buffer, "buffer", name)
        for bit, (path, tensor) in enumerate(batch_tensors(batch)):
            if id(tensor) not in self._current:
                value = self._leaf(tensor, "input", path)
                value.inputs = 1 << bit
                self.record.inputs.append(value)

    def _leaf(self, tensor: Tensor, leaf: str, name: str = "") -> Value:
        value = Value(len(self.record.values), tensor, leaf=leaf, name=name)
        self.record.values.append(value)
        self._current[id(tensor)] = value
        return value

    def value_of(self, tensor: Tensor) -> Value:
        """The present value of a tensor."""
        value = self._current.get(id(tensor))
        if value is None:
            value = self._leaf(tensor, "constant")
        if self._writes and tensor.layout is torch.strided:
            writes = self._writes.get(_memory(tensor))
            if writes is not None and value.writes_seen < len(writes):
                value = self._written(value, writes)
        return value

    def _written(self, value: Value, writes: list[Value]) -> Value:
        """Brings a value up to date with writes through other views of its memory."""
        fresh = writes[value.writes_seen:]
        operation = Operation(
            self.record.n_dispatched - 1, "written", None, (value, tuple(fresh)), {}, (value, *fresh),
            fresh[-1].producer.module if fresh[-1].producer else "",
            fresh[-1].producer.place if fresh[-1].producer else None,
        )
        self._append(operation)
        return self._made(operation, value.tensor, 0)

    def _append(self, operation: Operation) -> None:
        self.record.operations.append(operation)
        for value in operation.inputs:
            value.consumers.append(operation)

    def _made(self, operation: Operation, tensor: Tensor, output: int) -> Value:
        value = Value(len(self.record.values), tensor, producer=operation, output=output)
        for other in operation.inputs if operation.name not in FACTORY else ():
            value.params |= other.params
            value.inputs |= other.inputs
        self.record.values.append(value)
        self._current[id(tensor)] = value
        operation.outputs.append(value)
        if self._writes and tensor.layout is torch.strided:
            value.writes_seen = len(self._writes.get(_memory(tensor), ()))
        return value

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Records one operation and runs it."""
        kwargs = kwargs or {}
        name = base_name(func._schema.name)
        if name not in WHOLE and func._can_decompose():
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        index = self.record.n_dispatched
        self.record.n_dispatched += 1
        seen: list[Value] = []

        def as_value(tensor: Tensor) -> Value:
            value = self.value_of(tensor)
            seen.append(value)
            return value

        known_args, known_kwargs = tree_map_only(Tensor, as_value, (args, kwargs))
        self._keep_before_change(func, args, kwargs)
        result = self._run(func, args, kwargs)
        if index in self._replace:
            result = _replaced(result, self._replace[index], args)
        operation = Operation(
            index, name, func, known_args, known_kwargs, tuple(seen), self._stack[-1], user_place()
        )
        self._note(operation, result, args, kwargs)
        return result

    def _keep_before_change(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """An activation that is about to be changed in place keeps its old numbers in a copy."""
        for tensor in _mutated(func, args, kwargs):
            value = self._current[id(tensor)]
            if value.params and value.inputs and value.producer is not None:
                value.tensor = self._run(torch.ops.aten.clone.default, (tensor,), {})
                self._kept_alive.append(tensor)

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self._grad:
            return func(*args, **kwargs)
        with torch._C._PreserveDispatchKeyGuard(), torch.enable_grad():
            for key in (torch._C.DispatchKey.AutogradFunctionality, torch._C.DispatchKey.ADInplaceOrView):
                torch._C._dispatch_tls_set_dispatch_key_excluded(key, False)
            return func(*args, **kwargs)

    def _note(self, operation: Operation, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        changed = {id(tensor): tensor for tensor in _mutated(operation.func, args, kwargs)}
        given = {id(value.tensor) for value in operation.inputs}
        made = [item for item in tree_flatten(result)[0] if isinstance(item, Tensor)]
        fresh = [
            tensor for tensor in made
            if id(tensor) in changed or id(tensor) not in given or operation.name in DROPOUT
        ]
        if not fresh and not changed:
            return
        self._append(operation)
        for number, tensor in enumerate(made):
            if any(tensor is item for item in fresh):
                self._made(operation, tensor, number)
        for tensor in changed.values():
            if not any(tensor is item for item in made):
                self._made(operation, tensor, len(operation.outputs))
            if tensor.layout is torch.strided:
                writes = self._writes.setdefault(_memory(tensor), [])
                writes.append(self._current[id(tensor)])
                self._current[id(tensor)].writes_seen = len(writes)


def _memory(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


_written_arguments: dict[Any, tuple[tuple[int, str], ...]] = {}


def _mutated(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Tensor]:
    """The tensors that the call writes to."""
    places = _written_arguments.get(func)
    if places is None:
        places = tuple(
            (position, argument.name)
            for position, argument in enumerate(func._schema.arguments)
            if argument.alias_info is not None and argument.alias_info.is_write
        )
        _written_arguments[func] = places
    for position, name in places:
        given = args[position] if position < len(args) else kwargs.get(name)
        if isinstance(given, Tensor):
            yield given


def _replaced(result: Any, change: Callable[[Tensor, tuple[Any, ...]], Tensor], args: tuple[Any, ...]) -> Any:
    if isinstance(result, Tensor):
        return change(result, args)
    return type(result)([change(result[0], args), *result[1:]])


def batch_tensors(batch: Any, path: str = "") -> list[tuple[str, Tensor]]:
    """Every tensor in a batch, with its path, such as `['input_ids']` or `[0]`."""
    if isinstance(batch, Tensor):
        return [(path, batch)]
    if isinstance(batch, Mapping):
        items = [(f"{path}[{key!r}]", item) for key, item in batch.items()]
    elif isinstance(batch, list | tuple):
        items = [(f"{path}[{position}]", item) for position, item in enumerate(batch)]
    elif hasattr(batch, "__dict__") and not isinstance(batch, nn.Module | type):
        items = [(f"{path}.{key}", item) for key, item in vars(batch).items()]
    else:
        return []
    return [found for place, item in items for found in batch_tensors(item, place)]


def tensors_in(output: Any) -> list[Tensor]:
    """Every tensor in a model's output, whatever its container."""
    return [tensor for _, tensor in batch_tensors(output)]


@contextmanager
def _whole_operations() -> Iterator[None]:
    """Below autograd, composite operations reach the mode whole; fused fast paths would hide modules."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), torch._C._AutoDispatchBelowADInplaceOrView():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _eager() -> AbstractContextManager[Any]:
    """Compiled functions run eagerly; the compiler is not loaded for models that never used it."""
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    return torch.compiler.set_stance("force_eager")  # type: ignore[no-any-return]


def record_forward(
    model: nn.Module, batch: Any, forward: Callable[[nn.Module, Any], Any], *, grad: bool = False,
    replace: Replace | None = None,
) -> Record:
    """Runs `forward(model, batch)` and records what it did.

    Args:
        model: any module; the caller sees to it that its state is put back.
        batch: what `forward` takes.
        forward: calls the model.
        grad: keep the autograd graph on the recorded tensors.
        replace: operation number -> function of its output and arguments that gives another output.

    Returns:
        the record, its values holding the tensors.
    """
    with followed_modules(model) as stack, _eager():
        recorder = Recorder(model, batch, stack, grad=grad, replace=replace)
        with _whole_operations():
            if grad:
                with torch.enable_grad(), recorder:
                    result = forward(model, batch)
            else:
                with recorder:
                    result = forward(model, batch)
        record = recorder.record
        record.result = result
        record.outputs = [recorder.value_of(tensor) for tensor in tensors_in(result)]
    return record
