"""How near the optimiser's steps are to the largest curvature they endure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from attnscope.curvature.hessian import Hessian
from attnscope.curvature.lanczos import lanczos
from attnscope.curvature.slices import gather
from attnscope.errors import AttnscopeError
from attnscope.lenses import DEEP, Lens
from attnscope.lenses._curvature import hessian_of, left_out, not_measured
from attnscope.lenses._preconditioner import Joined, Preconditioned, StepRule, step_rule
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class PreconditionedTopEigenvalue(Lens):
    """How near the optimiser's steps are to the largest curvature they endure: 1 is the limit of stability.

    **Measures** per block the largest eigenvalue of step times Hessian, the step being what the optimiser
    multiplies a gradient by now (lr, or lr / (sqrt(v) + eps)), divided by its limit: 2 + 2m for momentum
    m, and (2 + 2 b1) / (1 - b1) for Adam, which is 38 at b1 = 0.9 (unit 1). So 1 is a top eigenvalue of
    2/lr for plain descent and of 38/lr for Adam's preconditioned Hessian.

    **Reading it** training at a large batch settles near 1 by itself and that is healthy; small batches
    settle below. Above 1 in the model as a whole (`model`) the loss oscillates or spikes unless the steps
    shrink. Above 1 in one block: that block alone is already too sharp for its learning rate. Weight
    decay is left out; the data are the first batch.

    **Shapes** [block]; blocks without a learning rate are left out. Facts: `model`: the same for all
    parameters together, at least as large as any block; `top_eigenvalue`: before the division, per block;
    `limit`: per block; `optimizer`: which kind was read; `converged` per block; `left_out`.

    **Cost** one gradient with a graph, at most `max_steps` products per block and `max_steps` full ones;
    memory of `max_steps` vectors of the model.

    **Reference** Cohen et al. 2022, Adaptive Gradient Methods at the Edge of Stability, arXiv:2207.14484.
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("block",)
    needs: ClassVar[tuple[str, ...]] = ("hessian", "loss", "optimizer")
    effort: ClassVar[str] = DEEP

    max_steps: int = 20
    max_parameters: int = 4_000_000
    dtype: str = "float32"

    def measure(self, probe: Probe) -> Reading:
        """The share of its limit that every block uses up."""
        if probe.optimizer is None:
            return self.not_applicable("no optimiser was given")
        rule = step_rule(probe.model, probe.optimizer)
        if isinstance(rule, str):
            return self.not_applicable(rule)
        operator = hessian_of(probe, self, self.dtype)
        if isinstance(operator, Reading):
            return operator
        diagonal = _diagonal(operator, rule)
        kept = [name for name in diagonal if operator.sizes[name] <= self.max_parameters]
        if not kept:
            return self.not_applicable("no block that the optimiser moves is small enough")
        try:
            return self._measured(probe, rule, Preconditioned(operator, diagonal), kept, operator)
        except AttnscopeError as error:
            return not_measured(self, error)

    def _measured(
        self, probe: Probe, rule: StepRule, preconditioned: Preconditioned, kept: list[str], operator: Hessian
    ) -> Reading:
        found = lanczos(
            preconditioned, kept, max_steps=self.max_steps, seed=probe.seed, held=4 * self.max_parameters
        )
        limits = {name: _limit(operator, rule, name) for name in kept}
        whole = None
        if sum(preconditioned.sizes.values()) <= 4 * self.max_parameters:
            whole = lanczos(Joined(preconditioned), max_steps=self.max_steps, seed=probe.seed)["model"].top
        facts: dict[str, Any] = {
            "model": whole,
            "top_eigenvalue": [ritz.top * limits[name] for name, ritz in found.items()],
            "limit": [limits[name] for name in found],
            "converged": [ritz.converged for ritz in found.values()],
            "optimizer": rule.kind,
            "left_out": left_out(probe, kept),
        }
        return self.reading(
            [ritz.top for ritz in found.values()], coords={"block": tuple(found)}, step=probe.step,
            facts=facts,
        )


def _diagonal(operator: Hessian, rule: StepRule) -> dict[str, Tensor]:
    """Block name -> steps over limits as a flat vector, for blocks that the optimiser moves at least in part."""
    like = operator.objective.parameters
    steps: dict[str, Tensor | None] = {
        name: (rule.steps[name] / rule.limits[name]).to(tensor.device) if name in rule.steps else None
        for name, tensor in like.items()
    }
    doubles = {name: torch.empty_like(tensor, dtype=torch.float64) for name, tensor in like.items()}
    return {
        name: gather(block, steps, doubles)
        for name, block in operator.blocks.items()
        if any(steps[piece.parameter] is not None for piece in block.slices)
    }


def _limit(operator: Hessian, rule: StepRule, name: str) -> float:
    """The strictest limit among the block's parameters."""
    return min(
        rule.limits[piece.parameter] for piece in operator.blocks[name].slices if piece.parameter in rule.limits
    )
