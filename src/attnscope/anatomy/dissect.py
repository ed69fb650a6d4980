"""One attention taken apart: its operands, axes, masks and factors, still as operations and tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from attnscope.anatomy.axes import ScoreAxes, Side, examples_mixed, key_places, score_axes, side_of
from attnscope.anatomy.blocks import Form, Kind
from attnscope.anatomy.contraction import Contraction, contraction_of
from attnscope.anatomy.examples import ExampleAxes
from attnscope.anatomy.find import Finder, Found
from attnscope.anatomy.layout import Layouts
from attnscope.anatomy.masks import Mask, described, forbidden_by, masks_of
from attnscope.anatomy.network_axes import network_axes
from attnscope.anatomy.paths import bare, is_weight, main_operand, path_back, projection_sides
from attnscope.anatomy.record import Operation, Record, Value
from attnscope.anatomy.rows import Provenance
from attnscope.anatomy.scaling import Factor, factors_before, factors_on, fused_in_product, product_of
from attnscope.anatomy.vocabulary import CAST, DROPOUT, JOIN, LAYOUT, NORM
from attnscope.anatomy.weighing import Weighing, kernel_weighing, weighing_of


@dataclass(eq=False)
class Dissected:
    """An attention with everything that describing and observing it needs."""

    found: Found
    form: Form
    kind: Kind
    axes: ScoreAxes
    query: Side | None
    key: Side | None
    value: Side | None
    weighing: Weighing | None
    masks: list[Mask] = field(default_factory=list)
    factors: list[Factor] = field(default_factory=list)
    scale: float | None = 1.0
    query_factor: float | None = 1.0
    key_factor: float | None = 1.0
    scorer_hidden: Side | None = None
    unresolved: list[str] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Batch, heads, queries, keys."""
        return self.axes.shape


@dataclass(eq=False)
class Dissection:
    """A record with every attention in it."""

    record: Record
    layouts: Layouts
    provenance: Provenance
    attentions: list[Dissected]
    notes: list[str] = field(default_factory=list)

    @property
    def groups(self) -> list[list[Dissected]]:
        """The attentions, those of a loop over heads together: same input, outputs joined side by side."""
        found: dict[object, list[Dissected]] = {}
        for item in self.attentions:
            found.setdefault(_head_loop(item), []).append(item)
        return list(found.values())


def _head_loop(item: Dissected) -> object:
    """What the attentions of one loop over heads have in common; unique for any other attention."""
    if item.query is None or item.key is None:
        return item.found.first.index
    joined = _joined_by(item.found.context)
    if joined is None:
        return item.found.first.index
    batch, _, queries, keys = item.shape
    sources = tuple(id(bare(hidden_of(side)).tensor) for side in (item.query, item.key))
    return (joined, sources, batch, queries, keys)


def _joined_by(context: Value) -> int | None:
    """The join that a context enters through layout operations alone."""
    waiting = [context]
    while waiting:
        value = waiting.pop()
        for operation in value.consumers:
            if operation.name in JOIN:
                return operation.out.number
            if operation.name == "written" and operation.inputs[0] is not value:
                return -int(operation.out.tensor.untyped_storage()._cdata)
            if operation.name in LAYOUT | CAST | {"copy"}:
                waiting.extend(operation.outputs)
    return None


def dissect(record: Record) -> Dissection:
    """Finds every attention in a record and takes it apart."""
    layouts, provenance = Layouts(), Provenance()
    finder = Finder(record, layouts, provenance)
    attentions: list[Dissected] = []
    notes: list[str] = []
    with torch.no_grad():
        for found in finder.attentions():
            if found.context.numel == 0:
                continue  # an empty batch
            take = _fused if found.fused is not None else _scored
            try:
                attentions.append(take(found, layouts))
            except (RuntimeError, IndexError, ValueError) as error:
                notes.append(
                    f"an attention at {found.first.source} could not be read ({error}); it is left out"
                )
        examples = ExampleAxes(record, provenance)
        for item in attentions:
            named = {"query": item.query, "key": item.key}
            if item.axes.mixed == "ok" and examples_mixed(item.axes, named, provenance, examples):
                item.axes.mixed = "examples mixed"
    return Dissection(record, layouts, provenance, attentions, notes)


def _scored(found: Found, layouts: Layouts) -> Dissected:
    form = _form(found)
    product, raw = found.product, found.raw
    assert raw is not None
    assert found.value_product is not None
    additive = form in (Form.ADDITIVE, Form.POOLED, Form.LINEAR_QUERY)
    named: dict[str, Side] = {}
    if product is None or additive:
        axes = network_axes(found, layouts)
    else:
        sides = {"a": side_of(product.a, layouts), "b": side_of(product.b, layouts)}
        axes, named = score_axes(raw, product, key_places(found, layouts), sides, layouts)
    assert found.pattern is not None
    value_operand = found.value_product.other(found.pattern_side)
    value = side_of(value_operand, layouts, through_nonlinear=False)
    weighing = weighing_of(
        found.value_product, found.pattern_side, found.pattern, axes, layouts
    )
    dissected = Dissected(
        found, form, Kind.SELF, axes, named.get("query"), named.get("key"), value, weighing,
        masks=masks_of(found, axes, layouts),
    )
    _scale(dissected)
    if additive:
        dissected.scorer_hidden = _scorer_hidden(found, layouts)
    dissected.kind = _kind(dissected)
    _drop_shared_origin(dissected)
    if weighing is None:
        dissected.unresolved.append("the pattern that weighs the values does not cover the scores")
    return dissected


def _fused(found: Found, layouts: Layouts) -> Dissected:
    operation = found.fused
    assert operation is not None
    query, key, value = operation.inputs[:3]
    n_query, n_key = query.shape[-2], key.shape[-2]
    lead = query.shape[:-2]
    scores = Value(-1 - operation.index, torch.empty(*lead, n_query, n_key, device="meta"))
    repeats = query.shape[-3] // key.shape[-3] if bool(operation.kwargs.get("enable_gqa")) else 1
    stand_in = Operation(operation.index, "matmul", None, (query, key), {}, (query, key), outputs=[scores])
    product = Contraction(stand_in, query, key, form="linear", repeats=repeats)
    sides = {"a": side_of(query, layouts), "b": side_of(key, layouts)}
    axes, named = score_axes(scores, product, None, sides, layouts)
    dissected = Dissected(
        found, Form.FUSED, Kind.SELF, axes, named["query"], named["key"],
        side_of(value, layouts, through_nonlinear=False), kernel_weighing(value, found.context, repeats, axes.layout),
    )
    dissected.masks = _fused_masks(operation, scores, axes, layouts)
    width = query.shape[-1]
    given = operation.kwargs.get("scale")
    dissected.factors = [Factor(operation, float(given) if given is not None else 1 / math.sqrt(width))]
    _scale(dissected)
    dissected.kind = _kind(dissected)
    _drop_shared_origin(dissected)
    return dissected


def _fused_masks(operation: Operation, scores: Value, axes: ScoreAxes, layouts: Layouts) -> list[Mask]:
    given, causal = _fused_mask_arguments(operation)
    masks = []

    def canonical(allowed: Tensor) -> Tensor:
        return axes.layout.read(allowed.expand(scores.shape))

    if isinstance(given, Value):
        tensor = given.tensor
        boolean = tensor.dtype is torch.bool
        forbidden = ~tensor if boolean else forbidden_by(tensor, learned=bool(given.params))
        allowed = torch.ones(tensor.shape, dtype=torch.bool) if forbidden is None else ~forbidden
        fill = -math.inf if boolean else None if forbidden is None else float(tensor.min())
        masks.append(described(
            operation, "sdpa_bool" if boolean else "sdpa_float", "before_softmax", given, canonical(allowed), fill,
            None, layouts,
        ))
        masks[0].bias_only = not boolean and forbidden is None and bool(given.params)
    if causal:
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        mask = described(
            operation, "is_causal", "before_softmax", None, canonical(allowed), -math.inf, None, layouts
        )
        masks.append(mask)
    return masks


def _fused_mask_arguments(operation: Operation) -> tuple[Any, bool]:
    """`(mask, is_causal)` of a fused call, by the names in its schema."""
    names = [argument.name for argument in operation.func._schema.arguments]

    def argument(*wanted: str) -> Any:
        for name in wanted:
            if name in operation.kwargs:
                return operation.kwargs[name]
            if name in names and names.index(name) < len(operation.args):
                return operation.args[names.index(name)]
        return None

    return argument("attn_mask", "attn_bias"), bool(argument("is_causal"))


def _form(found: Found) -> Form:
    """The form of scores that a product or a small network makes."""
    if found.product is not None:
        sides = projection_sides(found.product.operation)
        if found.product.form == "product" and not (found.product.a.inputs and found.product.b.inputs):
            data = found.product.a if found.product.a.inputs else found.product.b
        elif sides is None:
            return Form.DOT_PRODUCT
        else:
            data = sides[0]
        return _network_form(found, data, Form.DOT_PRODUCT)
    assert found.scorer is not None
    sides = projection_sides(found.scorer)
    if sides is None:  # the outer sum of graph attention
        return Form.ADDITIVE
    return _network_form(found, sides[0], Form.LINEAR_QUERY)


def _network_form(found: Found, data: Value, otherwise: Form) -> Form:
    """Additive when a nonlinearity lies between the hidden layer and the score, pooled when it is gated."""
    assert found.value_product is not None
    value = bare(found.value_product.other(found.pattern_side))
    current, names = bare(data), []
    while current.producer is not None and current is not value and projection_sides(current.producer) is None:
        operation = current.producer
        if operation.name in ("mul", "multiply") and len(operation.inputs) == 2:
            made = {bare(item).producer.name for item in operation.inputs if bare(item).producer is not None}  # type: ignore[union-attr]
            if made & {"sigmoid"} and made & {"tanh", "relu", "gelu", "silu", "linear", "addmm", "sigmoid"}:
                return Form.POOLED
        names.append(operation.name)
        following = main_operand(operation, current)
        if following is None:
            break
        current = bare(following)
    nonlinear = {"tanh", "relu", "gelu", "silu", "sigmoid", "elu", "leaky_relu", "selu", "softplus"}
    if current is not value and nonlinear & set(names):
        return Form.ADDITIVE
    if current is value and nonlinear & set(names) and projection_sides(found.first) is not None:
        return Form.ADDITIVE
    return otherwise if otherwise is not Form.DOT_PRODUCT or not _is_vector(found) else Form.LINEAR_QUERY


def _is_vector(found: Found) -> bool:
    """Whether the learned side of a product is one vector that scores unprojected positions: `w . h`."""
    product = found.product
    if product is None:
        return False
    sides = projection_sides(product.operation)
    learned = sides[1] if sides else product.a if not product.a.inputs else product.b
    data = sides[0] if sides else product.other("a" if product.a is learned else "b")
    if learned.inputs or learned.numel > max(learned.shape, default=1):
        return False
    return path_back(data, through_norms=False).projection is None


def _scorer_hidden(found: Found, layouts: Layouts) -> Side | None:
    """What the scoring network's last layer reads."""
    operation = found.first
    sides = projection_sides(operation)
    contraction = contraction_of(operation)
    if sides is None and contraction is not None:
        sides = (contraction.a, contraction.b) if contraction.a.inputs else (contraction.b, contraction.a)
    return None if sides is None else side_of(sides[0], layouts)


def _scale(dissected: Dissected) -> None:
    """All factors between the bare products and the scores."""
    found = dissected.found
    if found.fused is None:
        dissected.factors = factors_on(found.score_path)
    if found.product is not None and fused_in_product(found.product.operation) != 1.0:
        operation = found.product.operation
        dissected.factors = [Factor(operation, fused_in_product(operation)), *dissected.factors]
    after = product_of(dissected.factors)
    before = []
    for side in (dissected.query, dissected.key):
        factors = factors_before(side.path) if side is not None else []
        before.append(product_of(factors))
        dissected.factors = factors + dissected.factors
    dissected.query_factor, dissected.key_factor = before
    known = after is not None and None not in before
    dissected.scale = after * before[0] * before[1] if known else None  # type: ignore[operator]


def _kind(dissected: Dissected) -> Kind:
    """Self-attention when queries and keys come from one hidden tensor."""
    if dissected.query is None or dissected.key is None:
        found = dissected.found
        if found.terms:
            sources = [_roots(_data_of(term)) for term in found.terms]
            return Kind.SELF if sources[0] & sources[1] else Kind.CROSS
        hidden = dissected.scorer_hidden
        data = hidden.path if hidden is not None else None
        beside = [item for _, item in data.beside if item.inputs and item.params] if data is not None else []
        return Kind.CROSS if beside and found.product is None else Kind.LEARNED_QUERY
    hidden_query, hidden_key = hidden_of(dissected.query), hidden_of(dissected.key)
    if not dissected.query.operand.inputs:
        return Kind.LEARNED_QUERY
    return Kind.SELF if _roots(hidden_query) & _roots(hidden_key) else Kind.CROSS


def _data_of(operation: Operation) -> Value:
    """What a parameter product reads, with layout undone."""
    contraction = contraction_of(operation)
    assert contraction is not None
    return bare(contraction.b if is_weight(contraction.a) else contraction.a)


def _roots(value: Value) -> set[int]:
    """A hidden tensor and what it was made from through norms and one linear map (a low-rank bottleneck)."""
    found, projections = {id(bare(value).tensor)}, 0
    while value.producer is not None and value.output == 0:
        sides = projection_sides(value.producer)
        if sides is not None:
            projections += 1
            following: Value | None = sides[0]
        elif value.producer.name in LAYOUT | CAST | NORM | DROPOUT | {"mul"}:
            following = main_operand(value.producer, value)
        else:
            following = None
        if following is None or projections > 1:
            break
        value = following
        found.add(id(bare(value).tensor))
    return found


def hidden_of(side: Side) -> Value:
    """The tensor that a projection reads; the origin itself when there is no projection."""
    return side.projection.data if side.projection is not None else side.path.origin


def _drop_shared_origin(dissected: Dissected) -> None:
    """A product whose output also feeds another role's projection is an encoder, not this role's projection."""
    sides = [side for side in (dissected.query, dissected.key, dissected.value, dissected.scorer_hidden) if side]
    for side in sides:
        if side.projection is None:
            continue
        for other in sides:
            if other.projection is None or other is side or other.projection is side.projection:
                continue
            if other.projection.operation is not side.projection.operation and _upstream(
                side.projection.origin, other.projection.data
            ):
                side.projection = None
                break


def _upstream(value: Value, data: Value, limit: int = 12) -> bool:
    """Whether `data` is `value` after layout, norms and elementwise operations."""
    for _ in range(limit):
        if data is value or data.tensor is value.tensor:
            return True
        if data.producer is None or data.number < value.number or projection_sides(data.producer) is not None:
            return False
        following = main_operand(data.producer, data)
        if following is None:
            return False
        data = following
    return False


def pattern_output(dissected: Dissected) -> Tensor | None:
    """The pattern's tensor, None for a fused kernel."""
    pattern = dissected.found.pattern
    return None if pattern is None else pattern.tensor
