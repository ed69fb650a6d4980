"""What the operators found, as readings: labelled arrays with their errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attnscope.anatomy.blocks import Anatomy, Block
from attnscope.curvature.cohen2022adaptive import Steps
from attnscope.curvature.coupling import Coupling
from attnscope.curvature.estimate import Estimate
from attnscope.curvature.hessian import Hessian
from attnscope.curvature.lanczos import Ritz
from attnscope.curvature.slices import gather, scatter
from attnscope.curvature.ubaru2017slq import Spectrum
from attnscope.readings import Reading

Floats = npt.NDArray[np.float64]
CURVATURE = "loss/parameter²"
GRID, WIDTH = 401, 0.008  # of the density: points, and the smearing as a share of the range
ENDS = ("top", "bottom")
NOTHING = Estimate(float("nan"), float("nan"))


def described(blocks: Sequence[Block]) -> dict[str, dict[str, Any]]:
    """What a page must know of each block."""
    return {
        block.name: {
            "layer": block.layer, "head": block.head, "role": str(block.role), "parameters": block.numel,
            "source": str(block.source) if block.source else "",
        }
        for block in blocks
    }


def of_blocks(operator: Hessian, ritz: Mapping[str, Ritz]) -> dict[str, Reading]:
    """Both ends of every block's spectrum, what one start says of its shape, and the Ritz values."""
    names = operator.names
    found = [ritz.get(name) for name in names]
    shapes = [
        None if item is None else Spectrum(
            name, operator.sizes[name], (item.values,), (item.weights,), exact=item.steps == operator.sizes[name]
        )
        for name, item in zip(names, found, strict=True)
    ]
    ends = {
        "top_eigenvalue": [(np.nan, np.nan) if item is None else (item.top, item.top_residual) for item in found],
        "bottom_eigenvalue": [
            (np.nan, np.nan) if item is None else (item.bottom, item.bottom_residual) for item in found
        ],
    }
    steps = [0 if item is None else item.steps for item in found]
    converged = [False if item is None else item.converged for item in found]
    readings = {
        key: Reading(
            key, np.array([value for value, _ in pairs]), ("block",), CURVATURE, {"block": names},
            facts={"residual": [residual for _, residual in pairs], "steps": steps, "converged": converged},
        )
        for key, pairs in ends.items()
    }
    told = [NOTHING if shape is None else shape.negative_share() for shape in shapes]
    readings["negative_share"] = Reading(
        "negative_share", np.array([item.value for item in told]), ("block",), "1", {"block": names},
        note="from one random start: the spread between starts is not known",
    )
    longest = max(steps, default=0)
    values = np.full((len(names), longest), np.nan)
    for row, item in enumerate(found):
        if item is not None:
            values[row, : item.steps] = item.values
    readings["ritz_values"] = Reading("ritz_values", values, ("block", "index"), CURVATURE, {"block": names})
    return readings


def of_pairs(found: Coupling) -> dict[str, Reading]:
    """Norms and couplings of all pairs, and the traces, with standard errors."""
    names = found.blocks
    pair = {"block": names, "other_block": names}
    traces = [found.traces.get(name, NOTHING) for name in names]
    return {
        "coupling": Reading(
            "coupling", found.ratios, ("block", "other_block"), "1", pair, stderr=found.ratio_stderr
        ),
        "pair_norm": Reading(
            "pair_norm", found.norms, ("block", "other_block"), CURVATURE, pair, stderr=found.norm_stderr
        ),
        "frobenius_norm": Reading(
            "frobenius_norm", np.diag(found.norms).copy(), ("block",), CURVATURE, {"block": names},
            stderr=np.diag(found.norm_stderr).copy(),
        ),
        "trace": Reading(
            "trace", np.array([item.value for item in traces]), ("block",), CURVATURE, {"block": names},
            stderr=np.array([item.stderr for item in traces]),
        ),
    }


def of_rank(readings: Mapping[str, Reading]) -> dict[str, Reading]:
    """How many directions as sharp as the sharpest would make the block's norm: `||H_aa||_F^2 / max |eigenvalue|^2`."""
    if not {"top_eigenvalue", "bottom_eigenvalue", "frobenius_norm"} <= readings.keys():
        return {}
    norm = readings["frobenius_norm"]
    ends = np.stack([readings["top_eigenvalue"].values, readings["bottom_eigenvalue"].values])
    with np.errstate(divide="ignore", invalid="ignore"):
        values = (norm.values / np.abs(ends).max(0)) ** 2
        stderr = 2 * values * np.asarray(norm.stderr) / norm.values
    return {
        "stable_rank": Reading(
            "stable_rank", values, ("block",), "directions", {"block": norm.labels("block")}, stderr=stderr
        )
    }


def of_whole(runs: Sequence[Ritz], size: int) -> dict[str, Reading]:
    """The density of all blocks taken as one matrix."""
    spectrum = Spectrum("all", size, tuple(r.values for r in runs), tuple(r.weights for r in runs), exact=False)
    low, high = min(r.bottom for r in runs), max(r.top for r in runs)
    reach = max(high - low, 1e-300)
    grid = np.linspace(low - 0.05 * reach, high + 0.05 * reach, GRID)
    density, stderr = spectrum.density(grid, WIDTH * reach)
    first = runs[0]
    facts = {
        "ritz": first.values.tolist(), "residuals": first.residuals.tolist(), "width": WIDTH * reach,
        "steps": [run.steps for run in runs], "parameters": size,
        "negative_share": spectrum.negative_share().value, "effective_rank": spectrum.effective_rank().value,
        "trace": spectrum.trace().value, "trace_stderr": spectrum.trace().stderr,
    }
    return {
        "spectral_density": Reading(
            "spectral_density", density, ("eigenvalue",), "1/curvature",
            {"eigenvalue": tuple(float(value) for value in grid)}, stderr=stderr, facts=facts,
        )
    }


def of_mass(operator: Hessian, anatomy: Anatomy, ritz: Ritz) -> dict[str, Reading]:
    """Where the sharpest directions of the whole lie: squared length by block and by head."""
    vectors = (ritz.top_vector, ritz.bottom_vector)
    names = operator.names
    sizes = [operator.sizes[name] for name in names]
    cut = [None if vector is None else dict(zip(names, torch.split(vector, sizes), strict=True)) for vector in vectors]
    mass = np.array([
        [np.nan if parts is None else float(parts[name].double().square().sum()) for name in names] for parts in cut
    ])
    facts = {"eigenvalue": [ritz.top, ritz.bottom], "residual": [ritz.top_residual, ritz.bottom_residual]}
    readings = {
        "eigenvector_mass": Reading(
            "eigenvector_mass", mass, ("end", "block"), "share", {"end": ENDS, "block": names}, facts=facts
        )
    }
    by_head = _by_head(operator, anatomy, cut)
    return readings if by_head is None else {**readings, "eigenvector_mass_by_head": by_head}


def _by_head(
    operator: Hessian, anatomy: Anatomy, cut: Sequence[Mapping[str, Tensor] | None]
) -> Reading | None:
    """The same by layer and head, whatever the blocks were."""
    parameters = operator.objective.parameters
    heads = [
        block for block in anatomy.head_blocks()
        if block.layer is not None and block.head is not None
        and all(part.parameter in parameters for part in block.slices)
    ]
    if not heads:
        return None
    layers = sorted({block.layer for block in heads if block.layer is not None})
    n_heads = 1 + max(block.head or 0 for block in heads)
    values = np.full((2, len(layers), n_heads), np.nan)
    for end, parts in enumerate(cut):
        if parts is None:
            continue
        tensors: dict[str, Tensor] = {}
        for name, vector in parts.items():
            scatter(operator.blocks[name], vector, tensors, parameters)
        for block in heads:
            if all(part.parameter in tensors for part in block.slices):
                share = float(gather(block, tensors, parameters).double().square().sum())
                place = end, layers.index(block.layer or 0), block.head or 0
                values[place] = share if np.isnan(values[place]) else values[place] + share
    return Reading(
        "eigenvector_mass_by_head", values, ("end", "layer", "head"), "share",
        {"end": ENDS, "layer": tuple(layers), "head": tuple(range(n_heads))},
    )


def of_stability(ritz: Ritz) -> Reading:
    """The sharpest direction that the optimiser sees, over its limit."""
    return Reading(
        "stability", np.array(ritz.top), (), "limit", facts={"residual": ritz.top_residual, "steps": ritz.steps}
    )


def of_limits(steps: Steps) -> dict[str, Reading]:
    """The largest stable eigenvalue of every block's Hessian, where the optimiser steps alike in the whole block."""
    values = []
    for name, rate in steps.rates.items():
        alike = bool((rate == rate[0]).all()) and float(rate[0]) > 0
        values.append(steps.limits[name] / float(rate[0]) - steps.decay[name] if alike else np.nan)
    if not np.isfinite(values).any():
        return {}
    return {
        "stability_limit": Reading(
            "stability_limit", np.array(values), ("block",), CURVATURE, {"block": tuple(steps.rates)}
        )
    }
