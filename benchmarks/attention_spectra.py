"""Per-head spectra from the factors against the full matrices, and the flow's integrators against each other.

Run: python benchmarks/attention_spectra.py [--json]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from attnscope.lenses._spectra import product_spectrum
from attnscope.models.softmax_attention_flow import Flow, Trajectory, arc_length, normalised_descent, time_flow
from attnscope.studies._implicit_measures import start
from attnscope.tasks.token_margin import TokenMargin


def seconds(work: Callable[[], Any], repeats: int) -> float:
    work()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)  # what others on the machine add is not ours


def spectra(n_heads: int = 12, d_head: int = 64, d_model: int = 768) -> dict[str, float]:
    draw = torch.Generator().manual_seed(0)
    query = torch.randn(n_heads, d_head, d_model, generator=draw)
    key = torch.randn(n_heads, d_head, d_model, generator=draw)
    small = seconds(lambda: product_spectrum(query, key), 9)
    full = seconds(lambda: torch.linalg.svdvals(query.transpose(1, 2) @ key), 3)
    left = product_spectrum(query, key)
    right = torch.linalg.svdvals(query.transpose(1, 2) @ key)[:, :d_head]
    error = float((left - right).abs().max() / right.max())
    return {"factors_ms": small * 1e3, "full_ms": full * 1e3, "ratio": full / small, "relative_error": error}


def integrators() -> list[dict[str, Any]]:
    data = TokenMargin(seed=0).draw()
    flow, factors = Flow(data.differences, data.queries, data.score_gap), start(0, 10)
    runs: dict[str, tuple[Callable[[], Trajectory], float]] = {
        "normalised descent, step 0.01": (lambda: normalised_descent(flow, factors, [100.0, 1000.0]), 1000.0),
        "arc length, DOP853": (lambda: arc_length(flow, factors, [100.0, 1000.0]), 1000.0),
        "time, LSODA (to margin 600)": (lambda: time_flow(flow, factors, [100.0, 600.0], rtol=1e-6), 600.0),
    }
    exact = arc_length(flow, factors, [100.0], rtol=1e-11).weights[0]
    rows = []
    for name, (run, margin) in runs.items():
        begin = time.process_time()
        found = run()
        spent = time.process_time() - begin
        error = np.linalg.norm(found.weights[0] - exact) / np.linalg.norm(exact)
        rows.append(
            {
                "integrator": name,
                "margin": margin,
                "cpu_seconds": spent,
                "evaluations": found.n_evaluations,
                "drift": found.drift,
                "error_at_margin_100": float(error),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    result = {"spectra": spectra(), "integrators": integrators()}
    if parser.parse_args().json:
        print(json.dumps(result, indent=1))
        return
    found = result["spectra"]
    print(
        f"12 heads of 64 x 768, {torch.get_num_threads()} threads: from the factors {found['factors_ms']:.1f} ms, full "
        f"matrices {found['full_ms']:.0f} ms, {found['ratio']:.0f} times; relative error {found['relative_error']:.1e}"
    )
    for row in result["integrators"]:
        print(
            f"{row['integrator']:<32} margin {row['margin']:.0f}: {row['cpu_seconds']:.2f} CPU s, "
            f"{row['evaluations']} evaluations, drift {row['drift']:.1e}, error at 100 {row['error_at_margin_100']:.1e}"
        )


if __name__ == "__main__":
    main()
