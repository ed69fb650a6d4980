"""Operations that are easily overlooked: what one layer of a stack does and no other, and a factor on the output."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from attnscope.anatomy.blocks import Attention, Block, OddOperation, ScaledOutput, without_numbers
from attnscope.anatomy.paths import projection_sides
from attnscope.anatomy.projections import parameter_behind
from attnscope.anatomy.record import Operation, Record, Value
from attnscope.anatomy.scaling import TIMES, plain_number
from attnscope.anatomy.vocabulary import CAST, LAYOUT, NONLINEAR, SOFTMAX

FEWEST_LAYERS = 3  # of two that differ, neither is the odd one
_FUNCTIONS = NONLINEAR - SOFTMAX - {"abs", "exp", "log", "square"}
Told = tuple[str, str]  # module within the layer, with numbers left out; what it does


def odd_operations(
    record: Record, attentions: Sequence[Attention], blocks: Sequence[Block]
) -> tuple[OddOperation, ...]:
    """Activations and constant factors that exactly one layer of a stack has, or lacks.

    Only operations of modules beside the attention count, and only where all the other layers agree: layers that
    alternate, or a first layer that does more inside its attention, are designs.

    Args:
        record: of the forward pass.
        attentions: that were found in it.
        blocks: of the anatomy; an operation is placed at the block whose module does it.

    Returns:
        one entry per odd layer and operation.
    """
    found: list[OddOperation] = []
    telling = [(operation, does) for operation in record.operations if (does := _does(operation))]
    for layers in _stacks(attentions).values():
        if len(layers) < FEWEST_LAYERS:
            continue
        told = {prefix: _told(telling, prefix, attention) for prefix, attention in layers.items()}
        for prefix, own in told.items():
            others = {frozenset(other) for name, other in told.items() if name != prefix}
            if len(others) == 1 and frozenset(own) not in others:
                usual = next(iter(others))
                found += _differences(prefix, layers[prefix], own, usual, told, blocks)
    return tuple(found)


def scaled_outputs(record: Record, blocks: Sequence[Block]) -> tuple[ScaledOutput, ...]:
    """Constant factors between the last projection and the model's output.

    Args:
        record: of the forward pass.
        blocks: of the anatomy.

    Returns:
        one entry per output with a factor other than 1.
    """
    found: dict[str, ScaledOutput] = {}
    for output in record.outputs:
        value, factor, source = output, 1.0, None
        while (operation := value.producer) is not None and value.output == 0:
            number = plain_number(operation)
            if number is not None:
                factor *= number if operation.name in TIMES else 1 / number if number else 0.0
                source = source or operation.source
            elif operation.name not in LAYOUT and operation.name not in CAST:
                break
            value = operation.inputs[0]
        sides = projection_sides(value.producer) if value.producer is not None else None
        place = "" if sides is None else _holding(parameter_behind(sides[1]), blocks)
        if place and factor != 1:
            found.setdefault(place, ScaledOutput(place, factor, source))
    return tuple(found.values())


def _holding(parameter: Value | None, blocks: Sequence[Block]) -> str:
    """The block of a parameter."""
    name = "" if parameter is None else parameter.name
    return next((block.name for block in blocks if any(piece.parameter == name for piece in block.slices)), "")


def _stacks(attentions: Sequence[Attention]) -> dict[str, dict[str, Attention]]:
    """Stack (`encoder.layer.#`) -> path of a layer -> its first attention."""
    stacks: dict[str, dict[str, Attention]] = defaultdict(dict)
    for attention in attentions:
        parts = attention.module.split(".")
        numbers = [index for index, part in enumerate(parts) if part.isdigit()]
        if numbers:
            prefix = ".".join(parts[: numbers[-1] + 1])
            stacks[".".join([*parts[: numbers[-1]], "#"])].setdefault(prefix, attention)
    return stacks


def _told(telling: Sequence[tuple[Operation, str]], prefix: str, attention: Attention) -> dict[Told, Operation]:
    """What the modules of a layer beside its attention do, each with the first operation that does it."""
    found: dict[Told, Operation] = {}
    for operation, does in telling:
        within = operation.module.removeprefix(f"{prefix}.")
        if within != operation.module and not _inside(operation.module, attention.module):
            found.setdefault((without_numbers(within), does), operation)
    return found


def _inside(module: str, attention: str) -> bool:
    return module == attention or module.startswith(f"{attention}.")


def _does(operation: Operation) -> str:
    """`gelu`, or `times 5`; empty for what every layer may do as it likes."""
    if operation.name in _FUNCTIONS:
        return operation.name
    number = plain_number(operation)
    if number in (None, 1.0):
        return ""
    return f"{'times' if operation.name in TIMES else 'divided by'} {number:.6g}"


def _differences(
    prefix: str,
    attention: Attention,
    own: dict[Told, Operation],
    usual: frozenset[Told],
    told: dict[str, dict[Told, Operation]],
    blocks: Sequence[Block],
) -> list[OddOperation]:
    missing = tuple(sorted(does for _, does in usual - own.keys()))
    more = [(path, does, operation) for (path, does), operation in own.items() if (path, does) not in usual]
    if more:
        return [
            OddOperation(attention.layer, place, does, missing, len(told) - 1, operation.source)
            for path, does, operation in more
            if (place := _placed(operation.module, blocks))
        ]
    path = sorted(usual - own.keys())[0][0]
    peer = next(operations[key] for operations in told.values() for key in operations if key in usual - own.keys())
    within = peer.module.split(".")[len(prefix.split(".")) :]
    place = _placed(".".join([prefix, *within]) if path else prefix, blocks)
    return [OddOperation(attention.layer, place, "", missing, len(told) - 1, None)] if place else []


def _placed(module: str, blocks: Sequence[Block]) -> str:
    """The block whose parameters the module, or the nearest module around it, owns; its last when it owns several."""
    while module:
        inside = [
            block.name
            for block in blocks
            if any(piece.parameter.startswith(f"{module}.") for piece in block.slices)
        ]
        if inside:
            return inside[-1]
        module = module.rpartition(".")[0]
    return ""
