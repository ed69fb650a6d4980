"""Whether an operator's products are those of a Hessian: symmetry, and differences of the gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attnscope.curvature.hessian import Hessian
from attnscope.curvature.operator import BlockOperator, Probes

Vectors = dict[str, Tensor]


@dataclass(frozen=True)
class SpotCheck:
    """What was seen on one random direction.

    Attributes:
        asymmetry: `|u.Hv - v.Hu|` over `|u||Hv| + |v||Hu|`; rounding only, for any correct Hessian.
        difference: relative distance of `Hv` from the difference of two gradients, NaN when not measured.
        trusted: whether two step lengths agree, so that `difference` means something (a step across the
            kink of a ReLU does not).
    """

    asymmetry: float
    difference: float
    trusted: bool


def asymmetry(operator: BlockOperator, seed: int = 0) -> float:
    """`|u.Hv - v.Hu|` over `|u||Hv| + |v||Hu|` for random u and v on all blocks. Two products."""
    probes = Probes(operator, seed)
    u = {name: probes.gaussian(name, 0) for name in operator.names}
    v = {name: probes.gaussian(name, 1) for name in operator.names}
    of_u, of_v = operator.matvec(u), operator.matvec(v)
    scale = _norm(u) * _norm(of_v) + _norm(v) * _norm(of_u)
    return abs(_inner(u, of_v) - _inner(v, of_u)) / scale if scale else 0.0


def spot_check(operator: Hessian, *, seed: int = 0, step: float | None = None) -> SpotCheck:
    """Checks a Hessian's products against each other and against differences of its gradient.

    Double backward is wrong in silence where a custom autograd function's backward is not itself
    differentiable (it detaches, or computes in another library). A difference of gradients uses no second
    derivative and shows it.

    Args:
        operator: the Hessian.
        seed: of the direction.
        step: length of the step relative to that of the parameters; None is the cube root of the rounding
            unit, where truncation and rounding balance.

    Returns:
        the relative errors. Three products and four gradients.
    """
    relative = step if step is not None else torch.finfo(operator.dtype).eps ** (1 / 3)
    probes = Probes(operator, seed)
    direction = {name: probes.gaussian(name, 2) for name in operator.names}
    product = operator.matvec(direction)
    length = relative * max(_norm(operator.objective.point()), 1.0) / _norm(direction)
    one, other = (_difference(operator, direction, factor * length) for factor in (1.0, 0.5))
    scale = _norm(product)
    if not scale:
        scale = _norm(one) or 1.0
    trusted = _distance(one, other) <= 0.1 * scale
    return SpotCheck(asymmetry(operator, seed), _distance(product, other) / scale, trusted)


def _difference(operator: Hessian, direction: Vectors, length: float) -> Vectors:
    """`(g(x + length d) - g(x - length d)) / (2 length)`."""
    above = operator.objective.gradient_at(direction, length)
    below = operator.objective.gradient_at(direction, -length)
    return {name: (above[name] - below[name]) / (2 * length) for name in above}


def _inner(one: Vectors, other: Vectors) -> float:
    return sum(float(one[name].double() @ other[name].double()) for name in one)


def _norm(one: Vectors) -> float:
    return float(_inner(one, one) ** 0.5)


def _distance(one: Vectors, other: Vectors) -> float:
    return _norm({name: one[name] - other[name] for name in one})
