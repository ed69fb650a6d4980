"""Finds attention in the record: a normaliser whose input scores positions and whose output weighs values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from attnscope.anatomy.contraction import Contraction, contraction_of
from attnscope.anatomy.indexing import coordinates_of
from attnscope.anatomy.layout import Layouts
from attnscope.anatomy.paths import is_statistic, is_weight, main_operand, projection_sides
from attnscope.anatomy.record import Operation, Record, Value
from attnscope.anatomy.rows import Provenance
from attnscope.anatomy.vocabulary import BINARY, CAST, DROPOUT, FUSED, JOIN, LAYOUT, REDUCTION, SOFTMAX, UNARY


@dataclass(eq=False)
class Found:
    """One attention in the record, as operations.

    Attributes:
        product: the contraction that makes the raw scores; None when a small network does, or one kernel.
        scorer: the parameter product that makes the raw scores of additive attention.
        fused: the single kernel.
        normaliser: the operation whose output is the (first) pattern, and its input.
        value_product: the contraction that weighs the values; `pattern_side` of it is the pattern.
        score_path: operations from the raw scores to the normaliser's input, in order.
        pattern_path: operations from the normaliser's output to the value product, in order.
        applications: how many softmaxes the scores pass through.
        hand_sum: the sum that a hand-written softmax divides by.
        terms: the two parameter products whose outer sum is the scores (graph attention); `scorer` adds them.
    """

    product: Contraction | None = None
    scorer: Operation | None = None
    fused: Operation | None = None
    normaliser: Operation | None = None
    normaliser_input: Value | None = None
    normaliser_output: Value | None = None
    value_product: Contraction | None = None
    pattern_side: str = "a"
    score_path: list[Operation] = field(default_factory=list)
    pattern_path: list[Operation] = field(default_factory=list)
    applications: int = 1
    hand_sum: Operation | None = None
    terms: tuple[Operation, ...] = ()

    @property
    def raw(self) -> Value | None:
        """The raw scores."""
        if self.product is not None:
            return self.product.out
        return self.scorer.out if self.scorer is not None else None

    @property
    def first(self) -> Operation:
        """The operation that starts it."""
        for operation in (self.fused, self.product.operation if self.product else None, self.scorer):
            if operation is not None:
                return operation
        raise ValueError("an attention without scores")

    @property
    def pattern(self) -> Value | None:
        """What weighs the values."""
        return self.value_product.side(self.pattern_side) if self.value_product else None

    @property
    def context(self) -> Value:
        """The weighed sum of the values."""
        if self.fused is not None:
            return self.fused.out
        assert self.value_product is not None
        return self.value_product.out


class _Flow:
    """For every value: the normaliser and the score product that it carries through transparent operations."""

    def __init__(self, record: Record) -> None:
        self.normaliser: dict[int, Operation] = {}
        self.product: dict[int, Contraction] = {}
        self.contractions: list[Contraction] = []
        for operation in record.operations:
            self._follow(operation)

    def _follow(self, operation: Operation) -> None:
        contraction = contraction_of(operation)
        if contraction is not None and not is_weight(contraction.a) and not is_weight(contraction.b):
            self.contractions.append(contraction)
            if contraction.a.inputs and contraction.b.inputs:
                self.product[operation.out.number] = contraction
            return
        if contraction is not None and contraction.form == "product":
            contraction = None
        name = operation.name
        if name in SOFTMAX:
            self.normaliser[operation.out.number] = operation
            self._pass(operation, self.product)
            return
        mixing = contraction is not None and operation.out.shape in (contraction.a.shape, contraction.b.shape)
        if not (name in LAYOUT or name in UNARY or name in CAST or name in BINARY or name in JOIN or mixing):
            return
        self._pass(operation, self.product)
        self._pass(operation, self.normaliser)
        if name == "exp" and operation.out.number not in self.normaliser:
            self.normaliser[operation.out.number] = operation

    def _pass(self, operation: Operation, flags: dict[int, Any]) -> None:
        carriers = operation.inputs[:1] if operation.name in LAYOUT else operation.inputs
        carried = next((flags[item.number] for item in carriers if item.number in flags), None)
        if carried is not None:
            for value in operation.outputs:
                flags[value.number] = carried


class Finder:
    """Searches one record."""

    def __init__(self, record: Record, layouts: Layouts, provenance: Provenance) -> None:
        self.record, self.layouts, self.provenance = record, layouts, provenance
        self._flow = _Flow(record)

    def attentions(self) -> list[Found]:
        """Every attention, in the order of execution."""
        found = [
            Found(fused=operation) for operation in self.record.operations
            if operation.name in FUSED and any(item.inputs for item in operation.inputs)
        ]
        claimed: set[int] = set()
        for contraction in self._flow.contractions:
            attention = self._weighing(contraction) if contraction.out.numel else None
            if attention is None or attention.first.index in claimed:
                continue
            claimed.add(attention.first.index)
            found.append(attention)
        return sorted(found, key=lambda item: item.first.index)

    def _weighing(self, contraction: Contraction) -> Found | None:
        """The attention whose values this contraction weighs, if it does."""
        for side in ("a", "b"):
            pattern = contraction.side(side)
            normaliser = self._flow.normaliser.get(pattern.number)
            value_side = "b" if side == "a" else "a"
            if not contraction.side(value_side).inputs:
                continue
            if normaliser is None and self._flow.product.get(pattern.number) is None:
                attention = self._squashed(contraction, side)
                if attention is not None and self._weighs_positions(contraction, value_side):
                    return attention
                continue
            attention = self._normalised(contraction, side, normaliser) if normaliser else None
            if attention is None and self._weighs_positions(contraction, value_side):
                attention = self._unnormalised(contraction, side)
            if attention is not None:
                return attention
        return None

    def _weighs_positions(self, contraction: Contraction, value_side: str) -> bool:
        """Whether the sum runs over different rows of the batch (not over experts, classes or features)."""
        value = contraction.side(value_side)
        if not value.inputs:
            return False
        along = contraction.along(value_side)
        if len(along) < 2:
            return True
        rows = self.provenance.rows(value)
        if rows is None:
            return True
        seen = rows.index.expand(value.shape).reshape(-1)[along]
        return bool((seen != seen[0]).any())

    def _normalised(self, contraction: Contraction, side: str, normaliser: Operation) -> Found | None:
        pattern = contraction.side(side)
        output, pattern_path = self._back_to(pattern, normaliser)
        if output is None:
            return None
        attention = Found(
            normaliser=normaliser, normaliser_input=normaliser.inputs[0], normaliser_output=output,
            value_product=contraction, pattern_side=side, pattern_path=pattern_path,
        )
        if normaliser.name == "exp" and not _by_hand(attention):
            return None
        assert attention.normaliser_input is not None
        if normaliser.name in SOFTMAX:
            attention.normaliser_input = _unshifted(attention.normaliser_input, normaliser.argument(1, "dim", -1))
        inner = self._flow.normaliser.get(normaliser.inputs[0].number)
        if inner is not None and inner.name != "exp":
            attention.applications, attention.normaliser_input = 2, inner.inputs[0]
        product = self._flow.product.get(normaliser.inputs[0].number)
        if product is not None:
            attention.product = product
            assert attention.normaliser_input is not None
            _, attention.score_path = self._back_to(attention.normaliser_input, product.operation)
            return attention
        scored = self._scored_by_network(attention)
        return scored if scored is not None and self._scores_with_one_vector(scored) else None

    def _unnormalised(self, contraction: Contraction, side: str) -> Found | None:
        """Scores that weigh values without a softmax: a sigmoid, a division, or nothing."""
        pattern = contraction.side(side)
        product = self._flow.product.get(pattern.number)
        if product is None or product.operation is contraction.operation:
            return None
        output, path = self._back_to(pattern, product.operation)
        if output is None or not self._scores_positions(product) or any(map(_data_gate, path)):
            return None
        normaliser = next((item for item in reversed(path) if item.name in ("sigmoid", "relu", "div")), None)
        if normaliser is None:
            return Found(
                product=product, normaliser_input=pattern, normaliser_output=pattern,
                value_product=contraction, pattern_side=side, score_path=path,
            )
        cut = path.index(normaliser)
        return Found(
            product=product, normaliser=normaliser, normaliser_input=normaliser.inputs[0],
            normaliser_output=normaliser.out, value_product=contraction, pattern_side=side,
            score_path=path[:cut], pattern_path=path[cut + 1:],
        )

    def _squashed(self, contraction: Contraction, side: str) -> Found | None:
        """A sigmoid of a small network's scores weighs positions, where a softmax would: one number for each."""
        pattern, value = contraction.side(side), contraction.other(side)
        sigmoid = _sigmoid_behind(pattern)
        output, path = self._back_to(pattern, sigmoid) if sigmoid is not None else (None, [])
        if sigmoid is None or output is None or 2 * output.numel > value.numel:
            return None  # a gate has a number for each feature
        along = contraction.along(side)
        if not bool((along != along[:1]).any()):
            return None  # all that is summed gets the same number
        attention = self._scored_by_network(Found(
            normaliser=sigmoid, normaliser_input=sigmoid.inputs[0], normaliser_output=output,
            value_product=contraction, pattern_side=side, pattern_path=path,
        ))
        return attention if attention is not None and self._scores_with_one_vector(attention) else None

    def _scores_positions(self, product: Contraction) -> bool:
        """Whether rows and columns of a product are positions (so that it is a score matrix)."""
        return not any(self._weighs_positions(product, side) for side in ("a", "b"))

    def _scored_by_network(self, attention: Found) -> Found | None:
        """Additive, gated or linear scores: the normaliser's input leads to a parameter product."""
        value = attention.normaliser_input
        assert value is not None
        path: list[Operation] = []
        while value.producer is not None:
            operation = value.producer
            contraction = contraction_of(operation)
            if projection_sides(operation) is not None or (contraction is not None and contraction.form == "product"):
                attention.score_path = path[::-1]
                if contraction is not None and operation.name not in ("linear", "addmm"):
                    attention.product = contraction
                else:
                    attention.scorer = operation
                return attention
            terms = _outer_sum(operation)
            if terms:
                attention.score_path, attention.scorer, attention.terms = path[::-1], operation, terms
                return attention
            following = main_operand(operation, value)
            if following is None or operation.name in REDUCTION:
                return None
            path.append(operation)
            value = following
        return None

    def _scores_with_one_vector(self, attention: Found) -> bool:
        """Whether the positions that are weighed against one another are scored by the same parameters.

        A gate over experts or classes is a softmax over different rows of one parameter.
        """
        assert attention.pattern is not None
        assert attention.value_product is not None
        assert attention.raw is not None
        if attention.terms:
            return True
        contraction = attention.product or contraction_of(attention.first)
        index = self.layouts.replay(attention.pattern, attention.raw)
        places = None
        if index is not None:
            places = index.reshape(-1)[attention.value_product.along(attention.pattern_side)]
        if places is None or bool((places < 0).any()):
            return False
        if contraction is None:  # a convolution: its parameters are laid out along the channels
            channels = len(attention.raw.shape) - (attention.first.inputs[1].tensor.dim() - 1)
            rows = coordinates_of(places, attention.raw.shape)[channels]
        else:
            learned = "a" if is_weight(contraction.a) else "b"
            rows = contraction.rows(learned)[coordinates_of(places, attention.raw.shape)]
        return bool((rows == rows[0]).all())

    def _back_to(self, value: Value, wanted: Operation) -> tuple[Value | None, list[Operation]]:
        """The wanted operation's output on the way back from a value, and the operations between, in order."""
        waiting: list[tuple[Value, list[Operation]]] = [(value, [])]
        seen: set[int] = set()
        while waiting:
            current, path = waiting.pop(0)
            operation = current.producer
            if operation is wanted:
                return current, path[::-1]
            if operation is None or current.number in seen or operation.index < wanted.index:
                continue
            seen.add(current.number)
            if operation.name in REDUCTION:
                continue
            for item in operation.inputs[:1] if operation.name in LAYOUT else operation.inputs:
                waiting.append((item, [*path, operation]))
        return None, []


def _outer_sum(operation: Operation) -> tuple[Operation, ...]:
    """The parameter products behind `source[i] + target[j]`; empty for any other operation."""
    data = [item for item in operation.inputs if item.params and item.inputs]
    if operation.name not in ("add", "sub") or len(data) != 2 or any(
        item.numel >= operation.out.numel for item in data
    ):
        return ()
    found = []
    for value in data:
        while value.producer is not None and (
            value.producer.name in LAYOUT | CAST and contraction_of(value.producer) is None
        ):
            value = value.producer.inputs[0]
        if value.producer is None or contraction_of(value.producer) is None:
            return ()
        found.append(value.producer)
    return tuple(found)


def _sigmoid_behind(value: Value) -> Operation | None:
    """The sigmoid that a pattern is, but for layout, dropout and a mask of the batch."""
    while value.producer is not None:
        operation = value.producer
        if operation.name == "sigmoid":
            return operation
        learned = [item for item in operation.inputs if item.params]
        masked = operation.name in DROPOUT | {"masked_fill", "mul", "where"}
        if not (operation.name in LAYOUT | CAST or masked) or len(learned) != 1:
            return None
        value = learned[0]
    return None


def _data_gate(operation: Operation) -> bool:
    """Whether a multiplication brings other data into the pattern: the decay of a state space model."""
    full = [item for item in operation.inputs if item.params and item.inputs and item.numel == operation.out.numel]
    return operation.name in ("mul", "multiply") and len(full) > 1


def _source(value: Value) -> Operation | None:
    while value.producer is not None and value.producer.name in LAYOUT | CAST:
        value = value.producer.inputs[0]
    return value.producer


def _source_name(value: Value) -> str:
    source = _source(value)
    return source.name if source is not None else ""


def _unshifted(value: Value, dim: Any) -> Value:
    """The scores before `- max`: a softmax does not notice a shift that is the same all along its axis."""
    shift = value.producer
    if shift is None or shift.name != "sub" or len(shift.inputs) != 2 or not is_statistic(shift.inputs[1]):
        return value
    axis = (dim if isinstance(dim, int) else -1) % len(value.shape) - len(value.shape)
    constant = shift.inputs[1].shape
    return shift.inputs[0] if len(constant) < -axis or constant[axis] == 1 else value


def _by_hand(attention: Found) -> bool:
    """Turns `exp(x - max) / sum`, and `exp(log_softmax(x))`, into one softmax: its input is x."""
    exponential = attention.normaliser
    assert exponential is not None
    logarithm = _source(exponential.inputs[0])
    if logarithm is not None and logarithm.name == "log_softmax":
        attention.normaliser_input, attention.hand_sum = logarithm.inputs[0], logarithm
        return True
    shifted = exponential.inputs[0].producer
    if shifted is not None and shifted.name == "sub" and _source_name(shifted.inputs[1]) in (
        "logsumexp", "log_softmax"
    ):
        attention.normaliser_input, attention.hand_sum = shifted.inputs[0], _source(shifted.inputs[1])
        return True
    for place, operation in enumerate(attention.pattern_path):
        if operation.name not in ("div", "divide", "true_divide") or len(operation.inputs) != 2:
            continue
        total = operation.inputs[1]
        while total.producer is not None and total.producer.name in LAYOUT | CAST | UNARY | {"add", "clamp_min"}:
            total = total.producer.inputs[0]
        if total.producer is None or total.producer.name != "sum":
            continue
        attention.hand_sum = total.producer
        attention.normaliser, attention.normaliser_output = operation, operation.out
        attention.pattern_path = attention.pattern_path[place + 1:]
        dims = total.producer.argument(1, "dim", -1)
        attention.normaliser_input = _unshifted(
            exponential.inputs[0], dims[0] if isinstance(dims, list | tuple) and dims else dims
        )
        return True
    return False
