"""One head's factor of a product (W_Q, W_K, W_V or W_O) with its gradient, as matrices [head width, inputs]."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from attnscope.anatomy.blocks import Attention, ParameterSlice
from attnscope.anatomy.observe import AttentionTensors
from attnscope.lenses._low_rank import effective_weights, zeros_where_unreached
from attnscope.lenses._parameters import named, part
from attnscope.probe import Probe

THRESHOLDS = {"float64": 1e-12, "float32": 1e-4, "bfloat16": 5e-2, "float16": 5e-3}
"""What rounding leaves of the identities' relative residual, per precision of the parameters.

Measured on healthy models: 1e-15 in float64, 5e-7 in float32, 4e-3 in bfloat16; the bounds leave a factor of
ten or more.
"""


@dataclass(frozen=True)
class Factor:
    """One head's weights (bias and other additions as further columns) and their gradient, in float64."""

    weight: Tensor
    gradient: Tensor

    @property
    def size(self) -> float:
        """The product of the norms: what the entries of weight @ gradient^T are rounded against."""
        return float(self.weight.norm() * self.gradient.norm())


@dataclass(frozen=True)
class Factors:
    """Weights and gradients by parameter name, of a model and a batch; low-rank adapters are added in."""

    weights: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor]
    unreached: frozenset[str]

    @classmethod
    def of(cls, probe: Probe) -> Factors:
        """Of the probe's first batch, from one backward pass in eval mode."""
        weights = effective_weights(probe.model, probe.gradients)
        gradients = zeros_where_unreached(weights, probe.gradients)
        unreached = frozenset(name for name in weights if probe.gradients.get(name) is None)
        return cls(weights, gradients, unreached)

    def head(self, attention: Attention, role: str, head: int) -> Factor | None:
        """One head's factor; None where the trace found none or no gradient path reaches any of it."""
        columns = self._columns(attention, role, head)
        if not columns:
            return None
        return Factor(torch.cat([pair[0] for _, pair in columns], 1), torch.cat([pair[1] for _, pair in columns], 1))

    def pieces(self, attention: Attention, role: str) -> list[ParameterSlice]:
        """The parts of parameters that the factors of a role are made of, once each."""
        found: dict[tuple[str, int | None, tuple[tuple[int, int], ...]], ParameterSlice] = {}
        for head in range(len(attention.head_slices.get(role, ()))):
            for piece, _ in self._columns(attention, role, head):
                found.setdefault((piece.parameter, piece.dim, piece.ranges), piece)
        return list(found.values())

    def _columns(
        self, attention: Attention, role: str, head: int
    ) -> list[tuple[ParameterSlice, tuple[Tensor, Tensor]]]:
        """(piece, (weight, gradient) as [head width, inputs]) of a head: the matrix, then vectors of its width."""
        heads = attention.head_slices.get(role, ())
        width = attention.d_value if role in ("value", "output") else attention.d_head
        columns: list[tuple[ParameterSlice, tuple[Tensor, Tensor]]] = []
        for piece in heads[head] if head < len(heads) else ():
            weight, gradient = part(self.weights, piece).double(), part(self.gradients, piece).double()
            if role == "output" and columns and weight.numel() == max(weight.shape):
                continue  # the output's bias is added after the product
            pair = _as_matrix(weight, gradient, piece.dim, width, role, bool(columns))
            if pair is not None and (not columns or pair[0].shape[0] == columns[0][1][0].shape[0]):
                columns.append((piece, pair))
        return columns

    def reached(self, attention: Attention, *roles: str) -> bool:
        """Whether a gradient path leads to any of these roles' parameters."""
        names = {piece.parameter for role in roles for head in attention.head_slices.get(role, ()) for piece in head}
        return bool(names - self.unreached)


def _as_matrix(
    weight: Tensor, gradient: Tensor, dim: int | None, width: int | None, role: str, after_matrix: bool
) -> tuple[Tensor, Tensor] | None:
    """Both as [head width, inputs]; a vector of the head's width is one more column."""
    if weight.numel() == max(weight.shape, default=1):
        if width is not None and weight.numel() != width:
            return None
        return (weight.reshape(-1, 1), gradient.reshape(-1, 1)) if after_matrix else None
    if after_matrix:  # a second matrix is an adapter's factor: it is in the effective weight already
        return None
    axis = _width_axis(weight, dim, width, role)
    if axis is None:
        return None
    return weight.movedim(axis, 0).flatten(1), gradient.movedim(axis, 0).flatten(1)


def _width_axis(weight: Tensor, dim: int | None, width: int | None, role: str) -> int | None:
    """The axis over the head's width: the one that is cut, unless the cut is one head of several axes."""
    if dim is not None and (width is None or weight.shape[dim] == width):
        return dim
    fitting = [axis for axis, size in enumerate(weight.shape) if size == width and axis != dim]
    if not fitting:
        return None
    if weight.ndim == 2 and dim is None and len(fitting) == 2:
        return 1 if role == "output" else 0  # as a linear layer has it
    return fitting[0] if role == "output" else fitting[-1]  # [head, width, model] or [model, head, width]


def residual(left: Tensor, right: Tensor, size: float, precision: str) -> float:
    """How far two products are apart, relative to their mean norm.

    Args:
        left: one side.
        right: the other side.
        size: the largest product of norms behind either side; sides that are zero beside it say nothing.
        precision: of the parameters.

    Returns:
        0 when both sides vanish exactly; NaN when they are too small beside `size` for rounding to leave
        anything of them.
    """
    apart, mean = float((left - right).norm()), float(left.norm() + right.norm()) / 2
    if not (apart == apart and mean == mean) or mean == float("inf"):
        return float("nan")
    if mean == 0.0:
        return 0.0
    # Entries of W dW^T are sums that may cancel: their rounding is that of |W| |dW|, not of the sums.
    rounding = 64 * float(torch.finfo(getattr(torch, precision)).eps) * size
    if apart / mean > THRESHOLDS[precision] and apart < rounding:
        return float("nan")
    return apart / mean


def precision_of(probe: Probe) -> str:
    """The coarsest floating type among the parameters and, under autocast, the attentions' tensors."""
    types = {value.dtype for value in named(probe.model).values()}
    types |= {tensors.pattern.dtype for tensors in probe.observation.attentions}
    types |= {tensors.query.dtype for tensors in probe.observation.attentions if tensors.query is not None}
    kinds = {str(kind).removeprefix("torch.") for kind in types}
    return next((kind for kind in ("bfloat16", "float16", "float32", "float64") if kind in kinds), "float32")


def worst(row: list[float]) -> float:
    """The largest number of a row; NaNs say nothing."""
    return max((value for value in row if value == value), default=0.0)


def head_groups(attention: Attention) -> list[list[list[int]]]:
    """For every key head its query heads: neighbours share (Llama), or those of equal remainder."""
    n_key = max(attention.n_key_heads, 1)
    size = max(attention.n_heads // n_key, 1)
    neighbours = [list(range(head * size, (head + 1) * size)) for head in range(n_key)]
    if size == 1:
        return [neighbours]
    return [neighbours, [list(range(head, attention.n_heads, n_key)) for head in range(n_key)]]


Form = Callable[[Tensor], Tensor]


def product_forms(rotary: bool) -> dict[str, Form]:
    """What is compared of the products W dW^T: all, or what a rotation by position leaves as it is."""
    if not rotary:
        return {"matrix": _whole}
    return {
        "rotary planes (i, i + d/2)": _planes(half=True),
        "rotary planes (2i, 2i + 1)": _planes(half=False),
        "trace": _trace,
    }


def _whole(product: Tensor) -> Tensor:
    return product


def _trace(product: Tensor) -> Tensor:
    return product.diagonal().sum().reshape(1)


def _planes(*, half: bool) -> Callable[[Tensor], Tensor]:
    """Trace and antisymmetric part of every rotary plane: what commutes with the rotations."""

    def form(product: Tensor) -> Tensor:
        width = product.shape[0] // 2
        index = torch.arange(width)
        first, second = (index, index + width) if half else (2 * index, 2 * index + 1)
        trace = product[first, first] + product[second, second]
        turn = product[first, second] - product[second, first]
        return torch.cat([trace, turn])

    return form


def is_projected(attention: Attention, factors: Factors, observed: AttentionTensors) -> bool:
    """Whether queries are what their projection made of the input, up to a factor and a rotation."""
    if observed.hidden is None or observed.query is None or observed.hidden.ndim != 3:
        return True
    for head in range(min(attention.n_heads, observed.query.shape[1])):
        factor = factors.head(attention, "query", head)
        if factor is None:
            continue
        hidden = observed.hidden.detach().double().cpu()
        extra = factor.weight.shape[1] - hidden.shape[-1]
        if extra not in (0, 1):
            return True  # the input is not what this weight multiplies; the identity is tried all the same
        hidden = torch.cat([hidden, hidden.new_ones(*hidden.shape[:2], extra)], -1)
        made, seen = (hidden @ factor.weight.T).norm(dim=-1), observed.query[:, head].double().cpu().norm(dim=-1)
        if made.shape != seen.shape:
            return True
        parallel = float((made * seen).sum() / (made.norm() * seen.norm()).clamp(min=1e-300))
        if parallel < 1 - (1e-3 if observed.query.element_size() < 4 else 1e-5):
            return False
    return True
