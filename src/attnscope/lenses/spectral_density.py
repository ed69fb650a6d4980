"""The whole spectrum of the loss's Hessian, as a density."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from attnscope.curvature.combined import Joined
from attnscope.curvature.lanczos import TOP, lanczos
from attnscope.errors import AttnscopeError
from attnscope.lenses import DEEP, Lens
from attnscope.lenses._curvature import hessian_of, not_measured
from attnscope.probe import Probe
from attnscope.readings import Reading

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SpectralDensity(Lens):
    """How the curvatures of all directions are distributed, over the whole model.

    **Measures** the density of the Hessian's eigenvalues on a grid: the mean over `n_starts` random starts of
    the Lanczos quadrature, each node widened to a Gaussian of `width` times the spectrum's range (unit
    parameter^2/loss; it integrates to 1).

    **Reading it** a healthy spectrum is a tall bulk at 0 with a short negative tail and a few large
    positive outliers, about as many as classes. A heavy negative half: far from any valley. All mass at
    0: a dead model. The height of the bulk depends on `width`; positions do not.

    **Shapes** [eigenvalue]. Facts: `nodes`, `weights`: the quadrature of each start as nested lists;
    `largest`, `smallest`: the ends found; `negative_mass`: share of weight on nodes below minus one
    width.

    **Cost** one gradient with a graph and `n_starts` times `steps` full products (two gradients each);
    memory of `steps` vectors of the model.

    **Reference** Ghorbani, Krishnan & Xiao 2019, An Investigation into Neural Net Optimization via Hessian
    Eigenvalue Density, arXiv:1901.10159; Golub & Welsch 1969.
    """

    unit: ClassVar[str] = "parameter^2/loss"
    dims: ClassVar[tuple[str, ...]] = ("eigenvalue",)
    needs: ClassVar[tuple[str, ...]] = ("hessian", "loss")
    effort: ClassVar[str] = DEEP

    n_starts: int = 2
    steps: int = 30
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
            runs = [
                lanczos(whole, max_steps=self.steps, tolerance=0.0, ends=(TOP,), seed=probe.seed + start)["all"]
                for start in range(self.n_starts)
            ]
        except AttnscopeError as error:
            return not_measured(self, error)
        low = min(run.bottom for run in runs)
        high = max(run.top for run in runs)
        spread = self.width * ((high - low) or 1.0)
        grid = np.linspace(low - 4 * spread, high + 4 * spread, self.points)
        density = np.mean([widened(grid, run.values, run.weights, spread) for run in runs], axis=0)
        negative = float(np.mean([run.weights[run.values < -spread].sum() for run in runs]))
        return self.reading(
            density, coords={"eigenvalue": tuple(float(value) for value in grid)}, step=probe.step,
            facts={
                "nodes": [run.values.tolist() for run in runs], "weights": [run.weights.tolist() for run in runs],
                "largest": high, "smallest": low, "negative_mass": negative,
            },
        )


def widened(grid: Floats, nodes: Floats, weights: Floats, spread: float) -> Floats:
    """The sum of Gaussians of the given standard deviation at the nodes."""
    away = (grid[:, None] - nodes[None, :]) / spread
    bells: Floats = np.exp(-(away**2) / 2) / (spread * np.sqrt(2 * np.pi))
    total: Floats = bells @ weights
    return total
