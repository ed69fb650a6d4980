"""How much of each block's curvature points down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from attnscope.curvature.ubaru2017slq import slq
from attnscope.errors import AttnscopeError
from attnscope.lenses import DEEP, Lens
from attnscope.lenses._curvature import hessian_of, left_out, not_measured
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class NegativeShare(Lens):
    """How much of each block's curvature points down: 0 is a valley, 0.5 a saddle, 1 a ridge.

    **Measures** the sum of |negative eigenvalues| over the sum of |eigenvalues| of the Hessian of the loss
    restricted to the block, by Lanczos quadrature from `n_probes` random starts, with standard errors; exact in
    blocks of at most `n_probes * n_steps` parameters (unit 1). No rescaling of a block changes it.

    **Reading it** near 0.5 is usual in query and key blocks, whose product makes saddles, and in a
    pre-trained encoder with a new classifier (`benchmarks/lenses.py --effort deep`). Compare a block with
    itself over time: near a minimum it falls towards 0. A block without curvature has no share (NaN) and is
    listed in `flat`.

    **Shapes** [block], with standard errors; blocks of more than `max_parameters` are left out. Facts:
    `largest`, `smallest`: the ends of the spectrum that were met, per block; `trace`: the sum of the
    eigenvalues; `effective_rank`: how many directions carry the curvature; `flat`: blocks without curvature;
    `left_out`: blocks not measured.

    **Cost** one gradient with a graph and `n_probes * n_steps` products per block, restricted to the block;
    memory of `n_steps` vectors per block.

    **Reference** Ubaru, Chen & Saad 2017, Fast estimation of tr(f(A)) via stochastic Lanczos quadrature;
    Ormaniec, Dangel & Singh 2024, What Does It Mean to Be a Transformer?, arXiv:2410.10986 (indefinite parts).
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("block",)
    needs: ClassVar[tuple[str, ...]] = ("hessian", "loss")
    effort: ClassVar[str] = DEEP

    n_probes: int = 2
    n_steps: int = 10
    max_parameters: int = 4_000_000
    dtype: str = "float32"

    def measure(self, probe: Probe) -> Reading:
        """The negative share of every block."""
        operator = hessian_of(probe, self, self.dtype)
        if isinstance(operator, Reading):
            return operator
        names = [name for name, size in operator.sizes.items() if size <= self.max_parameters]
        if not names:
            return self.not_applicable(f"every block has more than {self.max_parameters} parameters")
        try:
            found = slq(
                operator, names, n_probes=self.n_probes, n_steps=self.n_steps, seed=probe.seed,
                held=4 * self.max_parameters,
            )
        except AttnscopeError as error:
            return not_measured(self, error)
        shares = [spectrum.negative_share() for spectrum in found.values()]
        values = np.array([share.value for share in shares])
        flat = [name for name, value in zip(found, values, strict=True) if np.isnan(value)]
        if len(flat) == len(values):
            return self.not_applicable("the loss bends in no block")
        return self.reading(
            values, coords={"block": tuple(found)}, stderr=np.array([share.stderr for share in shares]),
            step=probe.step,
            note=f"{', '.join(flat)} bend not at all" if flat else "",
            facts={
                "largest": [max(float(nodes.max()) for nodes in spectrum.nodes) for spectrum in found.values()],
                "smallest": [min(float(nodes.min()) for nodes in spectrum.nodes) for spectrum in found.values()],
                "trace": [spectrum.trace().value for spectrum in found.values()],
                "effective_rank": [spectrum.effective_rank().value for spectrum in found.values()],
                "flat": flat,
                "left_out": left_out(probe, list(found)),
            },
        )
