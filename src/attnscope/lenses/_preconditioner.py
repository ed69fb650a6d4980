"""What an optimiser multiplies gradients by, and how much curvature its steps endure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attnscope.curvature.operator import BlockOperator, Request


@dataclass(frozen=True)
class StepRule:
    """How an optimiser turns gradients into steps, linearised at one moment.

    Attributes:
        kind: `adam`, `rmsprop`, `adagrad` or `sgd`: which state it keeps.
        steps: parameter name -> the size of the step per unit of gradient, in the parameter's shape;
            parameters that the optimiser does not have are absent.
        limits: parameter name -> the largest eigenvalue of step times Hessian at which its momentum is stable.
    """

    kind: str
    steps: Mapping[str, Tensor]
    limits: Mapping[str, float]


def step_rule(model: nn.Module, optimizer: torch.optim.Optimizer) -> StepRule | str:
    """The optimiser's step rule, read from its groups and its state; a sentence when it cannot be read.

    The optimiser is known by what it keeps, not by its class: second moments (`exp_avg_sq` with `betas`,
    `square_avg`, `sum`) or none (`momentum`, `lr`).
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    steps: dict[str, Tensor] = {}
    limits: dict[str, float] = {}
    kinds: set[str] = set()
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names.get(id(parameter))
            if name is None or not parameter.requires_grad:
                continue
            found = _one(group, optimizer.state.get(parameter, {}), parameter)
            if isinstance(found, str):
                return found
            kind, steps[name], limits[name] = found
            kinds.add(kind)
    if not steps:
        return "the optimiser holds no parameter of this model that is trained"
    return StepRule("+".join(sorted(kinds)), steps, limits)


def _one(
    group: Mapping[str, Any], state: Mapping[str, Any], parameter: Tensor
) -> tuple[str, Tensor, float] | str:
    """Kind, step per unit of gradient, and limit for one parameter."""
    rate = float(group.get("lr", math.nan))
    if not math.isfinite(rate):
        return "the optimiser's groups have no learning rate"
    if "betas" in group:
        if not state:
            return "the optimiser has taken no step yet, so its preconditioner is not known"
        if "exp_avg_sq" not in state:
            return "the optimiser keeps momentum but no second moments that this lens can read"
        first, second = (float(beta) for beta in group["betas"])
        count = float(state["step"])
        variance = state.get("max_exp_avg_sq", state["exp_avg_sq"]).detach().double()
        root = (variance / (1 - second**count)).sqrt() + float(group.get("eps", 0.0))
        # Cohen et al. 2022: heavy ball with its step shrunk by (1 - beta), as an average of gradients is.
        return "adam", rate / root, (2 + 2 * first) / (1 - first)
    for name, kind in (("square_avg", "rmsprop"), ("sum", "adagrad")):
        if name in state:
            root = state[name].detach().double().sqrt() + float(group.get("eps", 0.0))
            return kind, rate / root, 2 + 2 * float(group.get("momentum", 0.0))
    if "momentum" in group and "dampening" in group:
        momentum = float(group["momentum"])
        # With dampening the buffer averages gradients: the step shrinks and the limit grows alike.
        shrink = 1 - float(group["dampening"]) if momentum else 1.0
        ones = torch.full(parameter.shape, rate * shrink, dtype=torch.float64)
        if group.get("nesterov"):
            return "sgd", ones, (2 + 2 * momentum) / (1 + 2 * momentum)
        return "sgd", ones, 2 + 2 * momentum
    return "the optimiser keeps neither second moments nor momentum that this lens can read"


class Preconditioned(BlockOperator):
    """`D^(1/2) H D^(1/2)`: symmetric, with the eigenvalues of `D H`, for a diagonal D that is not negative.

    Args:
        operator: H.
        diagonal: block name -> D as a flat vector.
    """

    def __init__(self, operator: BlockOperator, diagonal: Mapping[str, Tensor]) -> None:
        self.operator = operator
        self.sizes = {name: operator.sizes[name] for name in diagonal}
        self.dtype = operator.dtype
        self._roots = {
            name: vector.to(operator.device(name), operator.dtype).sqrt() for name, vector in diagonal.items()
        }

    def device(self, name: str) -> torch.device:
        """As of the operator within."""
        return self.operator.device(name)

    def products(self, requests: Iterable[Request]) -> Iterator[dict[str, Tensor]]:
        """The products of the operator within, with roots of D on both sides."""
        inner = (
            Request(
                {name: self._roots[name] * vector for name, vector in request.vectors.items()}, request.out
            )
            for request in map(self.check_request, requests)
        )
        for product in self.operator.products(inner):
            yield {name: self._roots[name] * vector for name, vector in product.items()}


class Joined(BlockOperator):
    """The same matrix with all its blocks as one block named `model`."""

    def __init__(self, operator: BlockOperator) -> None:
        self.operator = operator
        self.sizes = {"model": sum(operator.sizes.values())}
        self.dtype = operator.dtype

    def device(self, name: str) -> torch.device:
        """Of the first block: the joined vector lives there."""
        return self.operator.device(self.operator.names[0])

    def products(self, requests: Iterable[Request]) -> Iterator[dict[str, Tensor]]:
        """The products, cut before and joined after."""
        names = self.operator.names
        inner = (Request(self._cut(request.vectors["model"], names), names) for request in requests)
        for product in self.operator.products(inner):
            yield {"model": torch.cat([product[name].to(self.device("model")) for name in names])}

    def _cut(self, vector: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        parts = torch.split(vector, [self.operator.sizes[name] for name in names])
        return {
            name: part.to(self.operator.device(name)) for name, part in zip(names, parts, strict=True)
        }
