"""The sum of the curvatures of each block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from attnscope.lenses import DEEP, Lens
from attnscope.lenses._curvature import hessian_of, left_out, traces
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class BlockTrace(Lens):
    """The sum of the curvatures of the loss over all directions of each block.

    **Measures** the trace of the Hessian of the loss restricted to the block, on the first batch, in eval
    mode; a mean over random signs with its standard error, exact in blocks with no more parameters than
    probes (unit loss/parameter^2).

    **Reading it** exactly 0: the loss does not bend in this block at all (dead, or a linear end). Small
    beside its standard error: positive and negative curvature cancel, read `negative_share`. It depends
    on the block's scale as `block_top_eigenvalue` does; `relative_curvature` does not.

    **Shapes** [block], with standard errors. Facts: `zero`: blocks whose every sample was exactly 0;
    `left_out`: blocks not measured.

    **Cost** one gradient with a graph and `n_probes` products per block, restricted to the block.

    **Reference** Hutchinson 1990, A stochastic estimator of the trace of the influence matrix.
    """

    unit: ClassVar[str] = "loss/parameter^2"
    dims: ClassVar[tuple[str, ...]] = ("block",)
    needs: ClassVar[tuple[str, ...]] = ("hessian", "loss")
    effort: ClassVar[str] = DEEP

    n_probes: int = 10
    dtype: str = "float32"

    def measure(self, probe: Probe) -> Reading:
        """The trace of every block."""
        operator = hessian_of(probe, self, self.dtype)
        if isinstance(operator, Reading):
            return operator
        found = traces(probe, self, operator, self.n_probes)
        if isinstance(found, Reading):
            return found
        values = np.array([estimate.value for estimate in found.values()])
        errors = np.array([estimate.stderr for estimate in found.values()])
        zero = [name for name, estimate in found.items() if estimate.value == 0 and estimate.stderr == 0]
        return self.reading(
            values, coords={"block": tuple(found)}, stderr=errors, step=probe.step,
            facts={"zero": zero, "left_out": left_out(probe, list(found))},
        )
