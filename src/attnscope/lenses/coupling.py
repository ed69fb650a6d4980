"""How strongly pairs of attention blocks bend together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from attnscope.anatomy.blocks import ATTENTION_ROLES
from attnscope.curvature.coupling import Coupling as Couplings
from attnscope.curvature.coupling import coupling
from attnscope.errors import AttnscopeError
from attnscope.lenses import DEEP, Lens
from attnscope.lenses._curvature import hessian_of, not_measured
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class Coupling(Lens):
    """How strongly two blocks bend together, beside how each bends alone; no rescaling changes it.

    **Measures** |H_ab|_F / sqrt(|H_aa|_F |H_bb|_F) for all pairs of attention blocks (unit 1), from
    random signs on one block at a time, with standard errors.

    **Reading it** not a correlation: the Hessian is indefinite and values above 1 are usual between a
    query and its key, most of all before training (hundreds). 0: the blocks do not interact. Not defined
    (NaN) where a block is flat, which is what a zeroed neighbour does to it; such blocks are in `flat`.

    **Shapes** [block, other_block], symmetric, 1 on the diagonal. Facts: `norm`: |H_ab|_F as nested
    lists; `flat`: blocks with |H_aa|_F = 0; `within`: per layer, the couplings of query-key, query-value,
    key-value and value-output.

    **Cost** one gradient with a graph, and `n_probes` products per block, about one gradient each.

    **Reference** Jahan & Rahman 2025, Can Hessian-Based Insights Support Fault Diagnosis in Attention-based
    Models?, arXiv:2506.07871 (interaction of attention parameters).
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("block", "other_block")
    needs: ClassVar[tuple[str, ...]] = ("hessian", "loss")
    effort: ClassVar[str] = DEEP

    n_probes: int = 4
    dtype: str = "float32"

    def measure(self, probe: Probe) -> Reading:
        """The coupling of every pair of attention blocks."""
        operator = hessian_of(probe, self, self.dtype)
        if isinstance(operator, Reading):
            return operator
        names = [name for name, block in operator.blocks.items() if block.role in ATTENTION_ROLES]
        names = names or list(operator.names)
        try:
            found = coupling(operator, names, n_probes=self.n_probes, seed=probe.seed)
        except AttnscopeError as error:
            return not_measured(self, error)
        is_flat = np.diag(found.norms) == 0
        flat = [name for name, none in zip(found.blocks, is_flat, strict=True) if none]
        undefined = is_flat[:, None] | is_flat[None, :]
        note = f"{', '.join(flat)} bend not at all: their couplings are not defined" if flat else ""
        return self.reading(
            np.where(undefined, np.nan, found.ratios), coords={"block": found.blocks, "other_block": found.blocks},
            stderr=np.where(undefined, np.nan, found.ratio_stderr), note=note, step=probe.step,
            facts={"norm": found.norms.tolist(), "flat": flat, "within": _within(probe, found)},
        )


_PAIRS = {
    "query-key": ("query", "key"), "query-value": ("query", "value"), "key-value": ("key", "value"),
    "value-output": ("value", "output"),
}


def _within(probe: Probe, found: Couplings) -> list[dict[str, Any]]:
    """Per layer, the couplings of its own projections; None where a role is absent or shared."""
    rows: list[dict[str, Any]] = []
    for attention in probe.anatomy.attentions:
        row: dict[str, Any] = {"layer": attention.layer}
        for name, (a, b) in _PAIRS.items():
            first, second = attention.blocks.get(a), attention.blocks.get(b)
            both = first in found.blocks and second in found.blocks and first != second
            row[name] = found.ratio(str(first), str(second)).value if both else None
        rows.append(row)
    return rows
