"""How much of each block's extreme curvature points down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.lenses import DEEP, Lens
from attnscope.lenses._curvature import both_ends, left_out
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class NegativeShare(Lens):
    """How much of each block's extreme curvature points down: 0 is a valley, 0.5 a saddle, 1 a ridge.

    **Measures** n / (n + p), where p is the block's largest eigenvalue and n minus its smallest, each 0
    when of the other sign (unit 1). No rescaling of a block changes it.

    **Reading it** near 0.5 is usual in query and key blocks, whose product makes saddles, and in a
    pre-trained encoder with a new classifier (`benchmarks/lenses.py --effort deep`). Compare a block with
    itself over time: near a minimum it falls towards 0. A block without curvature reads 0 and is listed in
    `flat`.

    **Shapes** [block]. Facts: `largest`, `smallest` eigenvalue per block; `flat`: blocks whose ends are
    both 0; `left_out`: blocks not measured.

    **Cost** none beyond `block_top_eigenvalue`, whose products it shares.

    **Reference** Ormaniec, Dangel & Singh 2024, What Does It Mean to Be a Transformer? Insights from a
    Theoretical Hessian Analysis, arXiv:2410.10986.
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("block",)
    needs: ClassVar[tuple[str, ...]] = ("hessian", "loss")
    effort: ClassVar[str] = DEEP

    max_steps: int = 20
    max_parameters: int = 4_000_000
    dtype: str = "float32"

    def measure(self, probe: Probe) -> Reading:
        """The negative share of every block."""
        found = both_ends(
            probe, self, max_steps=self.max_steps, max_parameters=self.max_parameters, dtype=self.dtype
        )
        if isinstance(found, Reading):
            return found
        shares, flat = [], []
        for name, ritz in found.items():
            down, up = max(-ritz.bottom, 0.0), max(ritz.top, 0.0)
            shares.append(down / (down + up) if down + up else 0.0)
            if down + up == 0:
                flat.append(name)
        return self.reading(
            shares, coords={"block": tuple(found)}, step=probe.step,
            facts={
                "largest": [ritz.top for ritz in found.values()],
                "smallest": [ritz.bottom for ritz in found.values()],
                "flat": flat,
                "left_out": left_out(probe, list(found)),
            },
        )
