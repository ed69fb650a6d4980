"""The whole spectrum of the loss's Hessian, as a density."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from attnscope.curvature.combined import Joined
from attnscope.curvature.ubaru2017slq import slq
from attnscope.errors import AttnscopeError
from attnscope.lenses import DEEP, Lens
from attnscope.lenses._curvature import hessian_of, not_measured
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class SpectralDensity(Lens):
    """How the curvatures of all directions are distributed, over the whole model.

    **Measures** the density of the Hessian's eigenvalues on a grid: the mean over `n_probes` random starts
    of the Lanczos quadrature, each node widened to a Gaussian of `width` times the spectrum's range, with
    standard errors (unit parameter^2/loss; it integrates to 1).

    **Reading it** a healthy spectrum is a tall bulk at 0 with a short negative tail and a few large
    positive outliers, about as many as classes. A heavy negative half: far from any valley. All mass at
    0: a dead model. The height of the bulk depends on `width`; positions do not.

    **Shapes** [eigenvalue], with standard errors. Facts: `nodes`, `weights`: the quadrature of each start as
    nested lists; `largest`, `smallest`: the ends met; `negative_share`: sum of |negative| over sum of |all|
    eigenvalues; `effective_rank`: how many directions carry the curvature.

    **Cost** one gradient with a graph and `n_probes * n_steps` full products (two gradients each); memory of
    `n_steps` vectors of the model.

    **Reference** Ghorbani, Krishnan & Xiao 2019, An Investigation into Neural Net Optimization via Hessian
    Eigenvalue Density, arXiv:1901.10159; Ubaru, Chen & Saad 2017 (the quadrature).
    """

    unit: ClassVar[str] = "parameter^2/loss"
    dims: ClassVar[tuple[str, ...]] = ("eigenvalue",)
    needs: ClassVar[tuple[str, ...]] = ("hessian", "loss")
    effort: ClassVar[str] = DEEP

    n_probes: int = 2
    n_steps: int = 30
    points: int = 201
    width: float = 0.01
    max_parameters: int = 16_000_000
    dtype: str = "float32"

    def measure(self, probe: Probe) -> Reading:
        """The density of the spectrum."""
        operator = hessian_of(probe, self, self.dtype)
        if isinstance(operator, Reading):
            return operator
        whole = Joined(operator)
        if whole.sizes["all"] > self.max_parameters:
            return self.not_applicable(
                f"the model trains {whole.sizes['all']} parameters, more than max_parameters={self.max_parameters}"
            )
        try:
            found = slq(whole, n_probes=self.n_probes, n_steps=self.n_steps, seed=probe.seed)["all"]
        except AttnscopeError as error:
            return not_measured(self, error)
        low = min(float(nodes.min()) for nodes in found.nodes)
        high = max(float(nodes.max()) for nodes in found.nodes)
        spread = self.width * ((high - low) or 1.0)
        grid = np.linspace(low - 4 * spread, high + 4 * spread, self.points)
        density, errors = found.density(grid, spread)
        return self.reading(
            density, coords={"eigenvalue": tuple(float(value) for value in grid)}, stderr=errors, step=probe.step,
            facts={
                "nodes": [nodes.tolist() for nodes in found.nodes],
                "weights": [weights.tolist() for weights in found.weights],
                "largest": high,
                "smallest": low,
                "negative_share": found.negative_share().value,
                "effective_rank": found.effective_rank().value,
            },
        )
