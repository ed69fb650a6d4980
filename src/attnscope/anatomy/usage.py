"""What every parameter outside attention does, judged by the operations that read it."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from attnscope.anatomy.blocks import Role
from attnscope.anatomy.dissect import Dissection
from attnscope.anatomy.position_tensors import counts_up
from attnscope.anatomy.record import Operation, Record, Value
from attnscope.anatomy.surroundings import NormModules, Surroundings
from attnscope.anatomy.vocabulary import CAST, CONVOLUTION, JOIN, LAYOUT, LOOKUP, MATRIX_PRODUCT, RECURRENT

Fact = tuple[Role, int | None]


@dataclass(eq=False)
class Usage:
    """Role and neighbouring layer of every parameter; `norm_parameters` are those beside each attention."""

    facts: dict[str, Fact] = field(default_factory=dict)
    norm_parameters: dict[int, tuple[str, ...]] = field(default_factory=dict)

    def of(self, name: str) -> Fact:
        """Role and layer of a parameter."""
        return self.facts[name]


def usage_of(
    model: nn.Module, dissection: Dissection, surroundings: list[Surroundings], norms: NormModules
) -> Usage:
    """Judges every parameter."""
    record = dissection.record
    usage = Usage()
    for layer, around in enumerate(surroundings):
        usage.norm_parameters[layer] = tuple(
            item for operation in around.norms for item in _norm_parameters(operation, norms, record)
        )
    beside = {name: layer for layer, names in usage.norm_parameters.items() for name in reversed(names)}
    starts = [parts[0].found.first.index for parts in dissection.groups]
    biases = _bias_parameters(dissection)
    leaves = {value.name: value for value in record.values if value.leaf == "parameter"}
    for name in record.parameters:
        value = leaves[name]
        operations = readers(value)
        usage.facts[name] = _fact(name, value, operations, starts, biases, norms, model)
        if name in beside and usage.facts[name][0] is Role.NORM:
            usage.facts[name] = (Role.NORM, beside[name])
    return usage


def readers(value: Value) -> list[Operation]:
    """The operations that bring a parameter together with data, through views and casts of it."""
    found, waiting, seen = [], [value], set()
    while waiting:
        item = waiting.pop()
        for operation in item.consumers:
            if id(operation) in seen:
                continue
            seen.add(id(operation))
            made = operation.outputs[0] if operation.outputs else None
            if made is not None and not made.inputs:
                waiting.extend(operation.outputs)
                found += [operation] if operation.name in LOOKUP else []
            else:
                found.append(operation)
    return sorted(found, key=lambda operation: operation.index)


def _fact(
    name: str, value: Value, operations: list[Operation], starts: list[int], biases: set[str], norms: NormModules,
    model: nn.Module,
) -> Fact:
    if not operations:
        return _unused_role(name, value, model), None
    first = operations[0]
    layer = max((number for number, start in enumerate(starts) if start <= first.index), default=None)
    if name in biases:
        return Role.POSITIONS, None
    if first.name in LOOKUP:
        index = first.args[1]
        positional = isinstance(index, Value) and counts_up(index.tensor)
        return (Role.POSITIONS if positional else Role.EMBEDDING), None
    if any(norms.is_norm(operation) for operation in operations):
        return Role.NORM, layer
    if any(operation.name in RECURRENT | CONVOLUTION for operation in operations):
        return Role.ENCODER, None
    if first.name in JOIN | LAYOUT | CAST:
        return Role.EMBEDDING, None
    if first.name == "add" and value.tensor.dim() >= 2:
        return Role.POSITIONS, None
    product = first if first.name in MATRIX_PRODUCT else next(
        (operation for operation in operations if operation.name in MATRIX_PRODUCT), None
    )
    if product is not None and joins_residual(product):
        return Role.MLP, layer
    if not starts or first.index > starts[-1]:
        return Role.CLASSIFIER, None
    return (Role.ENCODER, None) if first.index < starts[0] else (Role.MLP, layer)


def joins_residual(operation: Operation) -> bool:
    """Whether a product's output is later added to something that was made before the product's input."""
    data = max((item for item in operation.inputs if item.inputs), key=lambda item: item.number, default=None)
    if data is None:
        return False
    waiting, seen = list(operation.outputs), set()
    for _ in range(80):
        if not waiting:
            return False
        value = waiting.pop(0)
        for consumer in value.consumers:
            if id(consumer) in seen:
                continue
            seen.add(id(consumer))
            others = [item for item in consumer.inputs if item is not value]
            if consumer.name == "add" and any(
                item.inputs and item.numel == value.numel and item.number <= data.number for item in others
            ):
                return True
            waiting.extend(consumer.outputs)
    return False


def _unused_role(name: str, value: Value, model: nn.Module) -> Role:
    """A guess for a parameter that nothing reads, from the kind of its module."""
    module = dict(model.named_modules()).get(name.rpartition(".")[0], model)
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return Role.EMBEDDING
    if all(item.dim() <= 1 for item in module.parameters(recurse=False)):
        return Role.NORM
    if isinstance(module, nn.RNNBase | nn.modules.conv._ConvNd):
        return Role.ENCODER
    return Role.CLASSIFIER if value.tensor.dim() else Role.MLP


def _norm_parameters(operation: Operation, norms: NormModules, record: Record) -> list[str]:
    if operation.module in norms.paths:
        return [name for name in record.parameters if name.rpartition(".")[0] == operation.module]
    return [item.name for item in operation.inputs if item.leaf == "parameter"]


def _bias_parameters(dissection: Dissection) -> set[str]:
    """Parameters of biases that are added to scores."""
    found: set[str] = set()
    for item in dissection.attentions:
        added = [
            other for operation in item.found.score_path if operation.name in ("add", "sub")
            for other in operation.inputs if dissection.layouts.identical(other, item.axes.raw) is None
        ]
        added += [mask.source for mask in item.masks if mask.source is not None]
        for value in added:
            if not _many(value):
                found |= set(dissection.record.parameters_in(value.params))
    return found


def _many(value: Value) -> bool:
    """A bias computed from the hidden state (relative keys) has other parameters in it too."""
    return value.params.bit_count() > 2
