"""What the parts of an attention model are called: blocks, sites, attentions. Plain data, no torch.

A *block* is a named group of parameters (`L2.K`, or one head of it: `L2H5.K`); a *site* is a place in the
computation that has no parameters (`L2.mask`). `layer` numbers the attentions of a model in the order in
which the forward pass first reaches them, so it is unique across an encoder and a decoder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from math import prod
from typing import Any

from attnscope.plain import maybe_float, plain


class Role(StrEnum):
    """What a block does."""

    QUERY = "query"
    KEY = "key"
    VALUE = "value"
    OUTPUT = "output"
    QUERY_KEY = "query_key"
    EMBEDDING = "embedding"
    POSITIONS = "positions"
    ENCODER = "encoder"
    NORM = "norm"
    MLP = "mlp"
    CLASSIFIER = "classifier"


ROLE_LETTERS = {Role.QUERY: "Q", Role.KEY: "K", Role.VALUE: "V", Role.OUTPUT: "O", Role.QUERY_KEY: "QK"}
ATTENTION_ROLES = tuple(ROLE_LETTERS)
SITES = ("scale", "mask", "softmax", "scores", "dropout", "heads", "positions", "residual", "norm", "cache")


class Form(StrEnum):
    """How scores are made and who executes them."""

    DOT_PRODUCT = "dot-product"  # a product of queries and keys, then a softmax
    FUSED = "fused"  # scaled_dot_product_attention or another single kernel
    ADDITIVE = "additive"  # a small network scores each position (Bahdanau, HAN)
    POOLED = "pooled"  # gated or additive pooling over a bag (multiple-instance learning)
    LINEAR_QUERY = "linear-query"  # a linear map of each position is its score: w.h


class Kind(StrEnum):
    """Where queries and keys come from."""

    SELF = "self"
    CROSS = "cross"
    LEARNED_QUERY = "learned-query"


@dataclass(frozen=True)
class Source:
    """A line of the user's code."""

    file: str
    line: int
    function: str = ""
    text: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class ParameterSlice:
    """Part of one parameter: the whole of it, or some index ranges along one dimension.

    Attributes:
        parameter: its first name in `model.named_parameters()` (tied parameters have one name here).
        shape: shape of the whole parameter.
        dim: the dimension that is sliced, or None for the whole parameter.
        ranges: `(start, stop)` pairs along `dim`, in the order in which the computation uses them.
    """

    parameter: str
    shape: tuple[int, ...]
    dim: int | None = None
    ranges: tuple[tuple[int, int], ...] = ()

    @property
    def numel(self) -> int:
        """How many numbers the slice holds."""
        if self.dim is None:
            return prod(self.shape)
        rows = sum(stop - start for start, stop in self.ranges)
        return rows * prod(self.shape) // max(self.shape[self.dim], 1)

    def __str__(self) -> str:
        if self.dim is None:
            return self.parameter
        ranges = ",".join(f"{start}:{stop}" for start, stop in self.ranges)
        return f"{self.parameter}[{':,' * self.dim}{ranges}]"


@dataclass(frozen=True)
class Block:
    """A named group of parameters.

    Attributes:
        name: `L2.K`, `L2H5.K`, or the module path of a block outside attention.
        role: what it does.
        slices: its parameters (weight first, then bias), never shared with another block of the same
            partition.
        layer: which attention it belongs to or stands beside; None when it belongs to none.
        head: which head, None for a whole projection.
        shared_by: every layer that uses it, when more than one does (ALBERT).
        trainable: whether any of its parameters requires a gradient.
        source: the user's line that first uses it; None when none does.
    """

    name: str
    role: Role
    slices: tuple[ParameterSlice, ...]
    layer: int | None = None
    head: int | None = None
    shared_by: tuple[int, ...] = ()
    trainable: bool = True
    source: Source | None = None

    @property
    def numel(self) -> int:
        """How many parameters it holds."""
        return sum(part.numel for part in self.slices)


@dataclass(frozen=True)
class Step:
    """One step of an attention: the operation that did it, its place in the record, the user's line."""

    op: str
    source: Source | None = None
    index: int | None = None  # position of the operation in the dispatch record


@dataclass(frozen=True)
class MaskStep(Step):
    """How a mask is applied.

    Attributes:
        how: `add`, `masked_fill`, `where`, `multiply`, `sdpa_bool`, `sdpa_float`, `is_causal`.
        when: `before_softmax` or `after_softmax`.
        fill: the number that stands for "forbidden" (-inf, -1e9, finfo.min, 0.0), None when unknown.
        causal: whether the mask seen on this batch forbids exactly the future.
        allowed_share: share of the score matrix that the mask allows, on this batch.
        shape: shape of the mask as applied.
    """

    how: str = ""
    when: str = "before_softmax"
    fill: float | None = None
    causal: bool | None = None
    allowed_share: float | None = None
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class SoftmaxStep(Step):
    """The softmax.

    Attributes:
        dim: the dimension as the model passes it, counted from the end (-1 is the last).
        over: what that dimension is: `keys`, `queries`, `heads`, `batch`, or `unknown`.
        applications: how many softmaxes the scores pass through before they weigh values.
        normaliser: `softmax`, `sigmoid`, `none`, or the op's name.
    """

    dim: int = -1
    over: str = "keys"
    applications: int = 1
    normaliser: str = "softmax"


@dataclass(frozen=True)
class DropoutStep(Step):
    """A dropout inside the attention: `where` is `pattern`, `scores` (before the softmax) or `output`."""

    where: str = "pattern"
    rate: float | None = None
    active: bool = False


@dataclass(frozen=True)
class Attention:
    """One attention of the model, as found in one forward pass. Plain data.

    Attributes:
        layer: its number, in the order of execution.
        module: path of the innermost module that computes it; `""` for the model itself.
        module_class: that module's class name.
        form, kind: see `Form` and `Kind`.
        n_heads, n_key_heads: query heads, and key/value heads (fewer when grouped, 1 when shared).
        d_head, d_value: width of a head's query and key, and of its value.
        blocks: role -> block name of its projections in `Anatomy.blocks`. A role that is absent
            (a HAN has no value projection) has no entry.
        head_slices: role -> one tuple of slices per head (for key and value, per key head).
        scale: the factor between the raw query-key products and the scores, None when unknown.
        scale_factors: the known factors that make up `scale`, one per step.
        expected_scale: 1 / sqrt(d_head) for dot products, else None.
        scale_note: why scale may legitimately differ (T5 folds it into the initialisation).
        scale_step, score_step, value_step: the operations, with the user's lines.
        moved_step: what moves the values to other positions than their keys, where something does.
        mask, softmax, dropout: what was found; empty tuples when there is none.
        positions: `rotary`, `relative bias`, `absolute`, `none`; more than one may apply.
        rotary_sides: which of `query`, `key`, `value` the rotation was applied to.
        residual: whether the attention's output is added to what it came from.
        residual_step: where that happens; where the output goes instead when it is not added to anything.
        residual_gain: the constant that the residual is multiplied with where it is added (1 when it is added
            as it is); None when there is no residual or the factor is learned.
        norms: block names of the normalisations beside it; `norm_place` is `pre`, `post`, `none`.
        causal_source: why the attention is taken to be causal, or "" when it is not.
        head_layout: `ok`, or what is wrong (`positions mixed`: heads were split or merged without the
            transpose; `examples mixed`: one score matrix spans several examples).
        layout_step: the operation that splits (or merges) heads, when they are mixed with positions.
        n_queries, n_keys, batch_size: sizes on the traced batch.
        unresolved: what could not be found, in plain words.
    """

    layer: int
    module: str
    module_class: str
    form: Form
    kind: Kind
    n_heads: int
    n_key_heads: int
    d_head: int | None = None
    d_value: int | None = None
    blocks: Mapping[str, str] = field(default_factory=dict)
    head_slices: Mapping[str, tuple[tuple[ParameterSlice, ...], ...]] = field(default_factory=dict)
    scale: float | None = None
    scale_factors: tuple[float, ...] = ()
    expected_scale: float | None = None
    scale_note: str = ""
    scale_step: Step | None = None
    score_step: Step | None = None
    value_step: Step | None = None
    moved_step: Step | None = None
    mask: tuple[MaskStep, ...] = ()
    softmax: SoftmaxStep | None = None
    dropout: tuple[DropoutStep, ...] = ()
    positions: tuple[str, ...] = ()
    rotary_sides: tuple[str, ...] = ()
    residual: bool | None = None
    residual_step: Step | None = None
    residual_gain: float | None = None
    norms: tuple[str, ...] = ()
    norm_place: str = "none"
    causal_source: str = ""
    head_layout: str = "ok"
    layout_step: Step | None = None
    n_queries: int = 0
    n_keys: int = 0
    batch_size: int = 0
    unresolved: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """`L2`."""
        return f"L{self.layer}"

    def site(self, what: str) -> str:
        """The name of one of its sites, such as `L2.mask`."""
        if what not in SITES:
            raise ValueError(f"{what!r} is not a site; the sites are {', '.join(SITES)}")
        return f"L{self.layer}.{what}"


@dataclass(frozen=True)
class InputTensor:
    """A tensor of the batch, as the forward pass used it.

    Attributes:
        path: where it is in the batch, such as `['input_ids']` or `[0]`.
        use: `tokens` (indexes an embedding), `mask` (ends in an attention's mask), `features`
            (enters the computation as numbers), `positions`, `unused` (labels, say).
        source: the user's line that first uses it; None when none does.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    use: str
    source: Source | None = None


@dataclass(frozen=True)
class OddOperation:
    """What one layer of a stack does beside its attention and no other layer does.

    Attributes:
        layer: of the attention that stands in that layer.
        place: the block whose module does it.
        does: `tanh`, or `times 5`; empty when the layer only lacks something.
        missing: what all the other layers do there and this one does not.
        n_others: how many other layers there are, all alike.
        source: the user's line.
    """

    layer: int
    place: str
    does: str
    missing: tuple[str, ...]
    n_others: int
    source: Source | None = None


@dataclass(frozen=True)
class ScaledOutput:
    """A constant factor between the last projection and an output of the model.

    Attributes:
        place: the block of that projection.
        factor: what its result is multiplied with.
        source: the user's line.
    """

    place: str
    factor: float
    source: Source | None = None


@dataclass(frozen=True)
class Anatomy:
    """Where the attention is, and what every parameter is for. Plain data; `str` prints a line per attention.

    Attributes:
        model_class: the (unwrapped) model's class name.
        attentions: in the order of execution; empty when the model has none, and `notes` says so.
        blocks: a partition of all parameters (no overlap, full cover), one block per projection.
        inputs: the batch's tensors and their use.
        unused: parameters that the output of this forward pass does not depend on.
        wrappers: what was unwrapped to reach the model (`OptimizedModule`, `DataParallel`, ...).
        notes: what a person should know: no attention found, fused fast path, unresolved parts.
        odd_operations: what one layer of a stack does and no other one does.
        scaled_outputs: constant factors behind the last projection.
        n_operations: length of the dispatch record.
        seconds, forward_seconds: cost of the trace, and of one plain forward pass beside it.
    """

    model_class: str
    attentions: tuple[Attention, ...] = ()
    blocks: tuple[Block, ...] = ()
    inputs: tuple[InputTensor, ...] = ()
    unused: tuple[str, ...] = ()
    wrappers: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    odd_operations: tuple[OddOperation, ...] = ()
    scaled_outputs: tuple[ScaledOutput, ...] = ()
    n_operations: int = 0
    seconds: float = 0.0
    forward_seconds: float = 0.0

    def __str__(self) -> str:
        """A line per attention; `attnscope trace` draws the whole tree."""
        lines = [f"{self.model_class}: {len(self.attentions)} attentions, {len(self.blocks)} parameter blocks"]
        for item in self.attentions:
            mask = "+".join(step.op for step in item.mask) or "no mask"
            scale = "unscaled" if item.scale is None else f"scale {item.scale:.3g}"
            positions = ", ".join(item.positions) or "no positions"
            heads = f"{item.n_heads} {'head' if item.n_heads == 1 else 'heads'}"
            parts = (f"{item.form.value} {item.kind.value}", heads, scale, mask, positions)
            lines.append(f"  L{item.layer} {item.module or '(the model)'}: {', '.join(parts)}")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def block(self, name: str) -> Block:
        """The block of that name.

        Raises:
            KeyError: there is none.
        """
        for block in (*self.blocks, *self.head_blocks()):
            if block.name == name:
                return block
        raise KeyError(f"no block {name!r}")

    def head_blocks(self) -> tuple[Block, ...]:
        """The attention projections cut by head (`L2H5.K`): a finer partition of the same parameters."""
        found: dict[str, Block] = {}
        by_name = {block.name: block for block in self.blocks}
        for attention in self.attentions:
            for role, heads in attention.head_slices.items():
                whole = by_name.get(attention.blocks.get(role, ""))
                layer = attention.layer if whole is None or whole.layer is None else whole.layer
                for head, slices in enumerate(heads):
                    name = block_name(layer, Role(role), head)
                    if name not in found:
                        found[name] = Block(
                            name=name, role=Role(role), slices=slices, layer=layer, head=head,
                            shared_by=whole.shared_by if whole else (),
                            trainable=whole.trainable if whole else True,
                            source=whole.source if whole else None,
                        )
        return tuple(found.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types: a mask filled with -inf becomes the string `"-inf"`."""
        data: dict[str, Any] = plain(asdict(self))
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Anatomy:
        """The inverse of `to_dict`."""
        return cls(
            **{
                **data,
                "attentions": tuple(_attention(item) for item in data["attentions"]),
                "blocks": tuple(_block(item) for item in data["blocks"]),
                "inputs": tuple(
                    InputTensor(
                        **{**item, "shape": tuple(item["shape"]), "source": _source(item.get("source"))}
                    )
                    for item in data["inputs"]
                ),
                **{key: tuple(data[key]) for key in ("unused", "wrappers", "notes")},
                "odd_operations": tuple(
                    OddOperation(
                        **{**item, "missing": tuple(item["missing"]), "source": _source(item.get("source"))}
                    )
                    for item in data.get("odd_operations", ())
                ),
                "scaled_outputs": tuple(
                    ScaledOutput(**{**item, "source": _source(item.get("source"))})
                    for item in data.get("scaled_outputs", ())
                ),
            }
        )


def block_name(layer: int, role: Role, head: int | None = None) -> str:
    """`L2.K`, or `L2H5.K` for one head."""
    return f"L{layer}{'' if head is None else f'H{head}'}.{ROLE_LETTERS.get(role, role.value)}"


def without_numbers(path: str) -> str:
    """A module's path with `#` for its numbers: the same for what stands at one place of the layers of a stack."""
    return ".".join("#" if part.isdigit() else part for part in path.split("."))


_PLACE = re.compile(r"^L(?P<layer>\d+)(?:H(?P<head>\d+))?(?:\.(?P<what>\w+))?$")


def parse_place(name: str) -> tuple[int | None, int | None, str]:
    """Layer, head and the rest (`K`, `mask`) of a block's or site's name; `(None, None, name)` elsewhere."""
    match = _PLACE.match(name)
    if match is None:
        return None, None, name
    head = match["head"]
    return int(match["layer"]), None if head is None else int(head), match["what"] or ""


def _slice(data: Mapping[str, Any]) -> ParameterSlice:
    return ParameterSlice(
        parameter=data["parameter"], shape=tuple(data["shape"]), dim=data["dim"],
        ranges=tuple((start, stop) for start, stop in data["ranges"]),
    )


def _block(data: Mapping[str, Any]) -> Block:
    return Block(**{
        **data, "role": Role(data["role"]), "slices": tuple(map(_slice, data["slices"])),
        "shared_by": tuple(data["shared_by"]), "source": _source(data.get("source")),
    })


def _source(data: Mapping[str, Any] | None) -> Source | None:
    return None if data is None else Source(**data)


def _step(kind: type[Step], data: Mapping[str, Any] | None) -> Any:
    if data is None:
        return None
    values = dict(data)
    if values.get("source") is not None:
        values["source"] = Source(**values["source"])
    if "shape" in values:
        values["shape"] = tuple(values["shape"])
    for name in ("fill", "allowed_share", "rate"):
        if name in values:
            values[name] = maybe_float(values[name])
    return kind(**values)


def _attention(data: Mapping[str, Any]) -> Attention:
    values = dict(data)
    for name in ("scale_step", "score_step", "value_step", "moved_step", "residual_step", "layout_step"):
        values[name] = _step(Step, values.get(name))
    for name in ("scale", "expected_scale", "residual_gain"):
        values[name] = maybe_float(values.get(name))
    values["form"], values["kind"] = Form(values["form"]), Kind(values["kind"])
    values["mask"] = tuple(_step(MaskStep, item) for item in values["mask"])
    values["softmax"] = _step(SoftmaxStep, values["softmax"])
    values["dropout"] = tuple(_step(DropoutStep, item) for item in values["dropout"])
    values["head_slices"] = {
        role: tuple(tuple(map(_slice, head)) for head in heads)
        for role, heads in values["head_slices"].items()
    }
    for name in ("positions", "rotary_sides", "norms", "unresolved", "scale_factors"):
        values[name] = tuple(values.get(name, ()))
    return Attention(**values)
