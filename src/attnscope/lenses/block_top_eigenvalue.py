"""The sharpest direction of the loss within each block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.curvature.lanczos import BOTTOM, TOP, lanczos
from attnscope.errors import AttnscopeError
from attnscope.lenses import DEEP, Lens
from attnscope.lenses._curvature import hessian_of, left_out, not_measured
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class BlockTopEigenvalue(Lens):
    """How sharply the loss bends in each block's sharpest direction.

    **Measures** the largest eigenvalue (signed) of the Hessian of the loss restricted to the block, on
    the first batch, in eval mode (unit loss/parameter^2).

    **Reading it** plain gradient descent with learning rate r is unstable beyond 2/r; no block may exceed
    it, and the model as a whole may exceed it when no block does. It depends on the scale of the block:
    multiplying queries by c and dividing keys by c moves it by c^2 either way and changes nothing else.
    Compare a block with itself over time, not with other blocks; between blocks read
    `relative_curvature`.

    **Shapes** [block]; blocks of more than `max_parameters` are left out. Facts: `smallest`: the smallest
    eigenvalue per block; `residual`: how far the nearest eigenvalue can be from the value; `converged`;
    `steps`: products spent; `left_out`: blocks not measured.

    **Cost** one gradient with a graph, and at most `max_steps` products per block, each restricted to its
    block (0.04 to 0.7 gradients); memory of `max_steps` vectors per block.

    **Reference** Cohen et al. 2021, Gradient Descent on Neural Networks Typically Occurs at the Edge of
    Stability, arXiv:2103.00065; Parlett 1980, The Symmetric Eigenvalue Problem.
    """

    unit: ClassVar[str] = "loss/parameter^2"
    dims: ClassVar[tuple[str, ...]] = ("block",)
    needs: ClassVar[tuple[str, ...]] = ("hessian", "loss")
    effort: ClassVar[str] = DEEP

    max_steps: int = 20
    max_parameters: int = 4_000_000
    dtype: str = "float32"

    def measure(self, probe: Probe) -> Reading:
        """The largest eigenvalue of every block."""
        operator = hessian_of(probe, self, self.dtype)
        if isinstance(operator, Reading):
            return operator
        names = [name for name, size in operator.sizes.items() if size <= self.max_parameters]
        if not names:
            return self.not_applicable(f"every block has more than {self.max_parameters} parameters")
        try:
            found = lanczos(
                operator, names, max_steps=self.max_steps, tolerance=0.01, ends=(TOP, BOTTOM), seed=probe.seed,
                held=4 * self.max_parameters,
            )
        except AttnscopeError as error:
            return not_measured(self, error)
        return self.reading(
            [ritz.top for ritz in found.values()], coords={"block": tuple(found)}, step=probe.step,
            facts={
                "smallest": [ritz.bottom for ritz in found.values()],
                "residual": [ritz.top_residual for ritz in found.values()],
                "converged": [ritz.converged for ritz in found.values()],
                "steps": [ritz.steps for ritz in found.values()],
                "left_out": left_out(probe, list(found)),
            },
        )
