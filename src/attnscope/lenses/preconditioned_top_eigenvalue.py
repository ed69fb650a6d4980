"""How near the optimiser's steps are to the largest curvature they endure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.curvature.cohen2022adaptive import Steps, steps_of
from attnscope.curvature.combined import Joined, Rescaled, Shifted
from attnscope.curvature.hessian import Hessian
from attnscope.curvature.lanczos import lanczos
from attnscope.errors import AttnscopeError, CaseError
from attnscope.lenses import DEEP, Lens
from attnscope.lenses._curvature import hessian_of, left_out, not_measured
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
    shrink. Above 1 in one block: that block alone is already too sharp for its learning rate. An L2
    penalty counts, AdamW's decay does not; the data are the first batch.

    **Shapes** [block]; blocks without a learning rate are left out. Facts: `model`: the same for all
    parameters together, at least as large as any block; `top_eigenvalue`: before the division, per block;
    `limit`: per block; `optimizer`: its class; `converged` per block; `left_out`.

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
        operator = hessian_of(probe, self, self.dtype)
        if isinstance(operator, Reading):
            return operator
        try:
            steps = steps_of(probe.optimizer, probe.model, operator.blocks)
        except CaseError as error:
            return self.not_applicable(str(error))
        if not steps.warm:
            return self.not_applicable("the optimiser has taken no step yet, so its preconditioner is not known")
        moved = [name for name, rate in steps.rates.items() if bool((rate > 0).any())]
        kept = [name for name in moved if operator.sizes[name] <= self.max_parameters]
        if not kept:
            return self.not_applicable("no block that the optimiser moves is small enough")
        try:
            return self._measured(probe, _in_steps(operator, steps), steps, moved, kept)
        except AttnscopeError as error:
            return not_measured(self, error)

    def _measured(
        self, probe: Probe, in_steps: Rescaled, steps: Steps, moved: list[str], kept: list[str]
    ) -> Reading:
        found = lanczos(
            in_steps, kept, max_steps=self.max_steps, tolerance=0.01, seed=probe.seed, held=4 * self.max_parameters
        )
        whole = Joined(in_steps, moved)
        top: float | None = None
        if whole.sizes["all"] <= 4 * self.max_parameters:
            top = lanczos(whole, max_steps=self.max_steps, tolerance=0.01, seed=probe.seed)["all"].top
        return self.reading(
            [ritz.top for ritz in found.values()], coords={"block": tuple(found)}, step=probe.step,
            facts={
                "model": top,
                "top_eigenvalue": [ritz.top * steps.limits[name] for name, ritz in found.items()],
                "limit": [steps.limits[name] for name in found],
                "converged": [ritz.converged for ritz in found.values()],
                "optimizer": type(probe.optimizer).__name__,
                "left_out": left_out(probe, kept),
            },
        )


def _in_steps(operator: Hessian, steps: Steps) -> Rescaled:
    """The Hessian (with its L2 penalty) in units of steps over limits; parameters that do not move weigh nothing."""
    penalised = Shifted(operator, steps.decay) if any(steps.decay.values()) else operator
    scales = {
        name: (rate / steps.limits[name]).nan_to_num(0.0).clamp(min=0).sqrt() for name, rate in steps.rates.items()
    }
    return Rescaled(penalised, scales)
