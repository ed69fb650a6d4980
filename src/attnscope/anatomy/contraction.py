"""Products of two tensors that sum over an axis, whatever operation makes them, in one form."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from attnscope.anatomy.record import Operation, Value
from attnscope.anatomy.vocabulary import CAST

_SIDES = {  # name -> positions of the two factors among the arguments
    "matmul": (0, 1), "bmm": (0, 1), "mm": (0, 1), "mv": (0, 1), "dot": (0, 1), "vdot": (0, 1),
    "baddbmm": (1, 2), "addmm": (1, 2), "addmv": (1, 2), "linear": (0, 1),
}


@dataclass(eq=False)
class Contraction:
    """`out[n, i, j] = sum_c a[n, i, c] b[n, c, j]`, as the operation really lays it out.

    Attributes:
        operation: the operation that made `out`; for a multiplication followed by a sum, the sum.
        a, b: the factors.
        factors: how the factors are brought to the common axes: `matmul`, `linear` or `product`.
        bias: the tensor that is added in the same operation, if any.
        summed: for `product`, the axes summed over.
        repeats: how often each head of `b` is repeated (grouped heads of a fused kernel).
    """

    operation: Operation
    a: Value
    b: Value
    form: str = "matmul"
    bias: Value | None = None
    summed: tuple[int, ...] = ()
    common: tuple[int, ...] = ()
    repeats: int = 1

    @property
    def out(self) -> Value:
        """The result."""
        return self.operation.out

    def side(self, which: str) -> Value:
        """`a` or `b`."""
        return self.a if which == "a" else self.b

    def other(self, which: str) -> Value:
        """The factor that is not `which`."""
        return self.b if which == "a" else self.a

    @cached_property
    def _cubes(self) -> dict[str, Tensor]:
        """Flat indices of both factors over `out.shape + (contracted,)`, as views that cost no memory."""
        index_a = torch.arange(self.a.numel).reshape(self.a.shape)
        index_b = torch.arange(self.b.numel).reshape(self.b.shape)
        if self.form == "product":
            order = [axis for axis in range(len(self.common)) if axis not in self.summed] + list(self.summed)
            kept = len(self.common) - len(self.summed)
            found = {}
            for name, index in (("a", index_a), ("b", index_b)):
                wide = index.expand(self.common).permute(order)
                # Collapse several summed axes only when there are several: the copy is then unavoidable.
                wide = wide.flatten(kept) if len(self.summed) > 1 else wide
                found[name] = wide.reshape(*self.out.shape, wide.shape[-1]) if kept != len(self.out.shape) else wide
            return found
        if self.repeats > 1:
            index_b = index_b.repeat_interleave(self.repeats, dim=-3)
        if self.form == "linear":
            index_b = index_b.mT if index_b.dim() > 1 else index_b
        vector_a, vector_b = index_a.dim() == 1, index_b.dim() == 1
        index_a = index_a.unsqueeze(0) if vector_a else index_a
        index_b = index_b.unsqueeze(-1) if vector_b else index_b
        wide_a = index_a.unsqueeze(-2)  # [..., i, 1, c]
        wide_b = index_b.mT.unsqueeze(-3)  # [..., 1, j, c]
        shape = torch.broadcast_shapes(wide_a.shape, wide_b.shape)  # type: ignore[no-untyped-call]
        wide_a, wide_b = wide_a.expand(shape), wide_b.expand(shape)
        if vector_b:
            wide_a, wide_b = wide_a.select(-2, 0), wide_b.select(-2, 0)
        if vector_a:
            axis = -2 if vector_b else -3
            wide_a, wide_b = wide_a.select(axis, 0), wide_b.select(axis, 0)
        return {"a": wide_a, "b": wide_b}

    def rows(self, which: str) -> Tensor:
        """For every element of `out`, the flat index in that factor at the start of the contraction."""
        return self._cubes[which].select(-1, 0)

    def along(self, which: str) -> Tensor:
        """For the first element of `out`, the flat indices in that factor along the contraction."""
        cube = self._cubes[which]
        return cube.reshape(-1, cube.shape[-1])[0] if cube.dim() == 1 else cube[(0,) * (cube.dim() - 1)]

    def cube(self, which: str) -> Tensor:
        """Flat indices in that factor over `out.shape + (contracted,)`."""
        return self._cubes[which]


def contraction_of(operation: Operation) -> Contraction | None:
    """The operation as a contraction, or None when it is none."""
    sides = _SIDES.get(operation.name)
    if sides is not None:
        if len(operation.args) <= max(sides):
            return None
        a, b = operation.args[sides[0]], operation.args[sides[1]]
        if not (isinstance(a, Value) and isinstance(b, Value)):
            return None
        bias = operation.argument(2, "bias") if operation.name == "linear" else None
        if sides[0] == 1:
            bias = operation.args[0]
        form = "linear" if operation.name == "linear" else "matmul"
        return Contraction(operation, a, b, form=form, bias=bias if isinstance(bias, Value) else None)
    if operation.name == "sum":
        return _summed_product(operation)
    return None


def _summed_product(operation: Operation) -> Contraction | None:
    """A multiplication of two tensors followed by a sum over some of the axes."""
    value = operation.inputs[0]
    while value.producer is not None and value.producer.name in CAST:
        value = value.producer.inputs[0]
    product = value.producer
    if product is None or product.name not in ("mul", "multiply") or len(product.inputs) != 2:
        return None
    a, b = product.inputs
    if a.numel <= 1 or b.numel <= 1:
        return None
    rank = len(value.shape)
    dims = operation.argument(1, "dim")
    if dims is None or dims == []:
        return None
    axes = tuple(sorted(axis % rank for axis in ([dims] if isinstance(dims, int) else dims)))
    return Contraction(operation, a, b, form="product", summed=axes, common=value.shape)
