"""The Hessian's two parts, block by block and for every pair of query and key: Gauss-Newton and residual.

The same random signs go through the Hessian and through the Gauss-Newton matrix, so that the residual part is their
difference on the same probes, and its error is not that of two estimates.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from attnscope.anatomy.blocks import Block, Role
from attnscope.curvature.gauss_newton import GaussNewton
from attnscope.curvature.hessian import Hessian
from attnscope.curvature.operator import Probes, Request
from attnscope.readings import Reading

Floats = npt.NDArray[np.float64]
PARTS = ("hessian", "gauss_newton", "residual")
PROBES = 4  # products per block and matrix: enough to tell most of a norm from little of it
CURVATURE = "loss/parameter²"


@dataclass
class Parts:
    """What the probes made so far have found: per block or pair, rows of one number for each part."""

    traces: dict[str, list[list[float]]] = field(default_factory=dict)
    norms: dict[str, list[list[float]]] = field(default_factory=dict)
    pairs: dict[tuple[str, str], list[list[float]]] = field(default_factory=dict)


def query_key_pairs(blocks: Sequence[Block]) -> dict[str, str]:
    """Key block -> the query block of the same layer and head."""
    queries = {(block.layer, block.head): block.name for block in blocks if block.role == Role.QUERY}
    return {
        block.name: queries[block.layer, block.head]
        for block in blocks if block.role == Role.KEY and (block.layer, block.head) in queries
    }


def probe_parts(
    hessian: Hessian, gauss_newton: GaussNewton, affordable: Callable[[float], bool], stop: Callable[[], bool],
    seed: int = 0,
) -> Parts | None:
    """Probes every block with both matrices.

    Args:
        hessian: the whole.
        gauss_newton: on the same blocks, data and moment.
        affordable: told how many seconds all will take, once the first block's products are made; may refuse.
        stop: asked between products.
        seed: of the signs.

    Returns:
        what was found; None when refused. After a stop, blocks not reached are missing.
    """
    found = Parts()
    partners = query_key_pairs(list(hessian.blocks.values()))
    probes = Probes(hessian, seed)
    for number in range(PROBES):
        for name in hessian.names:
            if stop():
                return found
            _probe(hessian, gauss_newton, probes, name, partners.get(name), number, found)
            if number == 0 and name == hessian.names[0]:
                # Once more, for its time: the first makes the graph too.
                start = time.perf_counter()
                _probe(hessian, gauss_newton, probes, name, partners.get(name), number, Parts())
                if not affordable((time.perf_counter() - start) * PROBES * len(hessian.names)):
                    return None
    return found


def _probe(
    hessian: Hessian, gauss_newton: GaussNewton, probes: Probes, name: str, partner: str | None, number: int,
    found: Parts,
) -> None:
    signs = probes.rademacher(name, number)
    request = Request({name: signs}, (name,) if partner is None else (name, partner))
    whole = next(iter(hessian.products([request])))
    first = next(iter(gauss_newton.products([request])))
    for block in request.out:
        vectors = (whole[block], first[block], whole[block] - first[block])
        squares = [float(vector.double().square().sum()) for vector in vectors]
        if block == name:
            found.norms.setdefault(name, []).append(squares)
            found.traces.setdefault(name, []).append([float((signs * vector).double().sum()) for vector in vectors])
        else:
            found.pairs.setdefault((block, name), []).append(squares)


def readings_of(found: Parts, names: Sequence[str]) -> dict[str, Reading]:
    """Traces and norms by part and block, and the coupling of every query with its key by part."""
    readings: dict[str, Reading] = {}
    if not found.norms or min(map(len, found.norms.values())) < 2:
        return readings
    known = tuple(name for name in names if name in found.norms)
    place = {"part": PARTS, "block": known}
    traces, trace_errors = _mean([found.traces[name] for name in known])
    squares, errors = _mean([found.norms[name] for name in known])
    norms, norm_errors = _root(squares, errors)
    readings["trace_by_part"] = Reading(
        "trace_by_part", traces, ("part", "block"), CURVATURE, place, stderr=trace_errors
    )
    readings["norm_by_part"] = Reading("norm_by_part", norms, ("part", "block"), CURVATURE, place, stderr=norm_errors)
    pairs = [pair for pair in found.pairs if len(found.pairs[pair]) > 1 and set(pair) <= set(known)]
    if pairs:
        own = {name: (norms[0, i], norm_errors[0, i]) for i, name in enumerate(known)}
        pair_norms, pair_errors = _root(*_mean([found.pairs[pair] for pair in pairs]))
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = np.array([np.sqrt(own[a][0] * own[b][0]) for a, b in pairs])
            of_scale = np.array([
                np.hypot(*(own[name][1] / own[name][0] / 2 for name in pair)) for pair in pairs
            ])
            values = pair_norms / scale
            stderr = values * np.hypot(pair_errors / pair_norms, of_scale)
        readings["query_key_by_part"] = Reading(
            "query_key_by_part", values, ("part", "pair"), "1",
            {"part": PARTS, "pair": tuple(f"{a}, {b}" for a, b in pairs)}, stderr=stderr,
        )
    return readings


def _mean(samples: Sequence[Sequence[Sequence[float]]]) -> tuple[Floats, Floats]:
    """Means and standard errors, [part, place], of rows that may differ in number."""
    tables = [np.asarray(rows, dtype=np.float64) for rows in samples]
    mean = np.stack([table.mean(0) for table in tables], 1)
    error = np.stack([table.std(0, ddof=1) / np.sqrt(len(table)) for table in tables], 1)
    return mean, error


def _root(squares: Floats, errors: Floats) -> tuple[Floats, Floats]:
    norms = np.sqrt(squares)
    return norms, np.divide(errors, 2 * norms, out=np.zeros_like(norms), where=norms > 0)
