"""What curvature lenses share: one Hessian and its traces per moment, and the reasons when there can be none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import cast

import torch

from attnscope.curvature.estimate import Estimate
from attnscope.curvature.hessian import Hessian
from attnscope.curvature.hutchinson import trace
from attnscope.curvature.levels import differentiable_blocks
from attnscope.errors import AttnscopeError, CaseError
from attnscope.lenses import Lens
from attnscope.probe import Probe
from attnscope.readings import FAILED, NOT_FINITE, Reading, missing

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def hessian_of(probe: Probe, lens: Lens, dtype: str = "float32") -> Hessian | Reading:
    """The Hessian of the loss on the first batch, shared by all lenses; else a reading that says why not."""
    key = f"hessian {dtype}"
    if key in probe.shared:
        return cast(Hessian, probe.shared[key])
    blocks = differentiable_blocks(probe.model, probe.anatomy.blocks)
    if not blocks:
        return lens.not_applicable("the model has no floating-point parameters")
    try:
        loss = probe.loss_value
    except CaseError as error:
        return lens.not_applicable(f"no loss: {error}")
    if not math.isfinite(loss):
        return _unmade(lens, NOT_FINITE, f"the loss is {loss}, so it has no curvature")
    try:
        found = Hessian(
            probe.model, [probe.batch], probe.loss_of, blocks, dtype=DTYPES[dtype], seed=probe.seed
        )
    except AttnscopeError as error:
        return _unmade(lens, FAILED, str(error))
    probe.shared[key] = found
    return found


def traces(probe: Probe, lens: Lens, operator: Hessian, n_probes: int) -> dict[str, Estimate] | Reading:
    """The trace of every block, shared by the lenses that need it."""
    key = f"traces {n_probes} {operator.dtype}"
    if key in probe.shared:
        return cast(dict[str, Estimate], probe.shared[key])
    try:
        found = trace(operator, n_probes=n_probes, seed=probe.seed)
    except AttnscopeError as error:
        return not_measured(lens, error)
    probe.shared[key] = found
    return found


def left_out(probe: Probe, kept: Sequence[str]) -> list[str]:
    """Blocks that were not measured: frozen, too large, or not numbers with fractions."""
    return [block.name for block in probe.anatomy.blocks if block.name not in set(kept)]


def not_measured(lens: Lens, error: AttnscopeError) -> Reading:
    """A reading of status `failed` with the error's sentence."""
    return _unmade(lens, FAILED, str(error))


def _unmade(lens: Lens, status: str, note: str) -> Reading:
    return missing(lens.name, lens.dims, lens.unit, status, note, **asdict(lens))
