"""The curvature of each block for changes relative to its own size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from attnscope.lenses import DEEP, Lens
from attnscope.lenses._curvature import hessian_of, left_out, traces
from attnscope.lenses._parameters import flat, named
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class RelativeCurvature(Lens):
    """How much the loss bends when a block is changed by a share of its own size, whatever that size is.

    **Measures** |W|^2 tr(H) / n of each block of n parameters W: twice the mean second-order change of the
    loss under a random change as large as the block itself (unit loss).

    **Reading it** W_Q times c with W_K divided by c leaves it as it is, and so do W_V and W_O (but for the
    bias of W_O, which stays): blocks and models may be compared. A block far above the others carries the
    function; near 0 it does not matter or has saturated; negative: most directions lead down.

    **Shapes** [block], with standard errors. Facts: `trace`: tr(H) per block; `norm`: |W| per block;
    `left_out`: blocks not measured.

    **Cost** none beyond `block_trace`, whose products it shares.

    **Reference** Tsuzuku, Sato & Sugiyama 2020, Normalized Flat Minima, arXiv:1901.04653.
    """

    unit: ClassVar[str] = "loss"
    dims: ClassVar[tuple[str, ...]] = ("block",)
    needs: ClassVar[tuple[str, ...]] = ("hessian", "loss", "weights")
    effort: ClassVar[str] = DEEP

    n_probes: int = 10
    dtype: str = "float32"

    def measure(self, probe: Probe) -> Reading:
        """The relative curvature of every block."""
        operator = hessian_of(probe, self, self.dtype)
        if isinstance(operator, Reading):
            return operator
        found = traces(probe, self, operator, self.n_probes)
        if isinstance(found, Reading):
            return found
        parameters = named(probe.model)
        norms = np.array([float(flat(parameters, operator.blocks[name]).norm()) for name in found])
        scales = norms**2 / np.array([operator.sizes[name] for name in found])
        measured = np.array([estimate.value for estimate in found.values()])
        errors = np.array([estimate.stderr for estimate in found.values()])
        return self.reading(
            scales * measured, coords={"block": tuple(found)}, stderr=scales * errors, step=probe.step,
            facts={
                "trace": measured.tolist(), "norm": norms.tolist(), "left_out": left_out(probe, list(found)),
            },
        )
