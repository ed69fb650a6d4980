"""Cross-entropy with its derivatives written down, so that a large vocabulary does not multiply memory.

With p the softmax of a row of logits and t its target, the gradient is `p - e_t` and the Hessian
`diag(p) - p p^T`. Autograd would keep the logarithm of p, its gradient and the pieces of both derivatives, each as
large as the logits; here p is made again from the logits, some rows at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.overrides import TorchFunctionMode

ROWS_AT_ONCE = 1 << 22  # numbers of one temporary


class LeanCrossEntropy(TorchFunctionMode):
    """Takes the place of `cross_entropy` wherever targets are classes, without weights or smoothing."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is cross_entropy:
            fitting = _fitting(*args, **kwargs)
            if fitting is not None:
                return lean_cross_entropy(*fitting)
        return func(*args, **kwargs)


def lean_cross_entropy(logits: Tensor, target: Tensor, ignore_index: int = -100, reduction: str = "mean") -> Tensor:
    """The cross-entropy of rows of logits against classes; it can be differentiated twice.

    Args:
        logits: `[row, class]`.
        target: `[row]`.
        ignore_index: of targets that do not count.
        reduction: `mean` over counted targets, or `sum`.
    """
    counted = target != ignore_index
    total: Tensor = _Loss.apply(  # type: ignore[no-untyped-call]
        logits, target.clamp(min=0), counted.to(logits.dtype)
    )
    return total / counted.sum() if reduction == "mean" else total


def _fitting(
    input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: bool | None = None,
    ignore_index: int = -100, reduce: bool | None = None, reduction: str = "mean", label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor, int, str] | None:
    """The arguments, where the written-down form serves; else None, and PyTorch's own is used."""
    rows = input.ndim == 2 and target.ndim == 1 and not target.is_floating_point()
    plain = weight is None and size_average is None and reduce is None and label_smoothing == 0
    real = input.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled(input.device.type)
    if not (rows and plain and real) or reduction not in ("mean", "sum") or not len(target):
        return None
    classes = target[target != ignore_index]
    if classes.numel() and not (int(classes.min()) >= 0 and int(classes.max()) < input.shape[1]):
        return None  # PyTorch's own form has the message for it
    return input, target, ignore_index, reduction


def _chunks(logits: Tensor) -> Iterator[slice]:
    step = max(1, ROWS_AT_ONCE // max(logits.shape[1], 1))
    for start in range(0, len(logits), step):
        yield slice(start, start + step)


class _Loss(torch.autograd.Function):
    """The sum of the weighed losses of the rows."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        normaliser = torch.cat([torch.logsumexp(logits[rows], 1) for rows in _chunks(logits)])
        ctx.save_for_backward(logits, target, weight, normaliser)
        chosen = logits.gather(1, target[:, None])[:, 0]
        # A row that does not count may hold anything, also what is not a number.
        return torch.where(weight > 0, (normaliser - chosen) * weight, 0.0).sum()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        logits, target, weight, normaliser = ctx.saved_tensors
        slope: Tensor = _Slope.apply(logits, upstream[0], target, weight, normaliser)  # type: ignore[no-untyped-call]
        return slope, None, None


class _Slope(torch.autograd.Function):
    """`upstream * weight * (softmax(logits) - one_hot(target))`, differentiable in logits and upstream."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, upstream: Tensor, target: Tensor, weight: Tensor, normaliser: Tensor
    ) -> Tensor:
        ctx.save_for_backward(logits, upstream, target, weight, normaliser)
        slope = torch.empty_like(logits)
        for rows in _chunks(logits):
            _softmax(logits[rows], normaliser[rows], slope[rows])
        # p_t - 1 is minus the sum of the others, which loses no digits where p_t is all but 1.
        place = target[:, None]
        slope.scatter_(1, place, 0.0).scatter_(1, place, -slope.sum(1, keepdim=True))
        slope.mul_((upstream * weight)[:, None])
        return slope.masked_fill_((weight == 0)[:, None], 0.0)

    @staticmethod
    def backward(ctx: Any, *tangents: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        logits, upstream, target, weight, normaliser = ctx.saved_tensors
        tangent = tangents[0]
        bent = torch.empty_like(logits)
        along = torch.zeros((), dtype=logits.dtype, device=logits.device)
        for rows in _chunks(logits):
            softmax, here = bent[rows], weight[rows]
            _softmax(logits[rows], normaliser[rows], softmax)
            # The Hessian does not see what is added to all classes alike: from the target, nothing cancels.
            part = tangent[rows] - tangent[rows].gather(1, target[rows][:, None])
            mean = torch.einsum("rc,rc->r", softmax, part)
            along += torch.where(here > 0, here * mean, 0.0).sum()
            softmax.mul_(part - mean[:, None]).mul_((upstream * here)[:, None])
            softmax.masked_fill_((here == 0)[:, None], 0.0)
        return bent, along, None, None, None


def _softmax(logits: Tensor, normaliser: Tensor, into: Tensor) -> None:
    torch.sub(logits, normaliser[:, None], out=into)
    into.exp_()
