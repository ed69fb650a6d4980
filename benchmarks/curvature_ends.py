"""Both ends of every block's spectrum to 1 %: what each rule to stop costs, and what it misses.

python benchmarks/curvature_ends.py --size pretrained --training 40

Rules are tried on one record of Lanczos steps, so that their products can be counted exactly; the last rows make
their steps in bfloat16 and then verify both ends of every block by one float32 product each, and are timed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
from curvature_setup import SIZES, Setup

from attnscope.curvature.hessian import Hessian
from attnscope.curvature.lanczos import BOTTOM, NEAR_ZERO, TOP, Ritz, _Krylov, lanczos
from attnscope.curvature.operator import Probes, Request
from curvature import Bench

SURE, MOST, ASKED = 24, 20, 0.01
History = list[Ritz]


def record(operator: Hessian, seed: int = 0) -> dict[str, History]:
    """What is known of each block after every step."""
    probes = Probes(operator, seed)
    spaces = [_Krylov(name, probes.gaussian(name, 0), MOST) for name in operator.names]
    found: dict[str, History] = {name: [] for name in operator.names}
    for _ in range(MOST):
        requests = [Request({space.name: space.last}, (space.name,)) for space in spaces]
        for space, product in zip(spaces, operator.products(requests), strict=True):
            space.extend(product[space.name])
            found[space.name].append(space.ritz((TOP, BOTTOM), ASKED, False))
        spaces = [space for space in spaces if not space.exhausted]
    return found


def scales(item: Ritz) -> tuple[float, float]:
    """What each end is held against."""
    least = NEAR_ZERO * float(np.abs(item.values).max())
    return max(abs(item.top), least), max(abs(item.bottom), least)


def by_residual(past: History) -> bool:
    """The rule in use: a bound."""
    top, bottom = scales(past[-1])
    return past[-1].top_residual <= ASKED * top and past[-1].bottom_residual <= ASKED * bottom


def by_temple(past: History) -> bool:
    """The residual's square over the gap to the next Ritz value: an estimate."""
    top, bottom = scales(past[-1])
    errors = past[-1].errors
    return len(past) > 2 and bool(errors[-1] <= ASKED * top and errors[0] <= ASKED * bottom)


def by_change(share: float, times: int) -> Callable[[History], bool]:
    """Neither end moved by more than a share in the last steps."""

    def met(past: History) -> bool:
        if len(past) <= times:
            return False
        top, bottom = scales(past[-1])
        pairs = zip(past[-times - 1:], past[-times:], strict=False)
        return all(abs(a.top - b.top) <= share * top and abs(a.bottom - b.bottom) <= share * bottom for a, b in pairs)

    return met


def missed(found: dict[str, tuple[float, float]], sure: dict[str, Ritz]) -> str:
    """Ends that are off by more than 1 % of the block's largest eigenvalue, and by how much at most."""
    off = [
        abs(value - true) / max(abs(sure[name].top), abs(sure[name].bottom))
        for name, ends in found.items() for value, true in zip(ends, (sure[name].top, sure[name].bottom), strict=True)
    ]
    return f"{sum(error > ASKED for error in off)} of {len(off)} ends off by more than 1 %, most {max(off):.1%}"


def verified(rough: Hessian, fine: Hessian, tolerance: float) -> tuple[dict[str, tuple[float, float]], list[float]]:
    """Ritz vectors from bfloat16, then a 2 x 2 problem with float32 products: values, and relative residuals."""
    ritz = lanczos(rough, max_steps=MOST, ends=(TOP, BOTTOM), tolerance=tolerance, vectors=True)
    found, residuals = {}, []
    for name, item in ritz.items():
        assert item.top_vector is not None
        assert item.bottom_vector is not None
        basis = torch.linalg.qr(torch.stack([item.top_vector, item.bottom_vector], 1)).Q
        image = fine.own_columns({name: basis})[name]
        values, turn = torch.linalg.eigh((basis.T @ image).double())
        rest = (image.double() @ turn - basis.double() @ turn * values).norm(dim=0)
        found[name] = float(values[1]), float(values[0])
        least = NEAR_ZERO * float(values.abs().max())
        residuals += [float(r / max(abs(float(v)), least)) for v, r in zip(values, rest, strict=True)]
    return found, residuals


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--training", type=int, default=40)
    args = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(Setup.of(SIZES[args.size], training=args.training), 3, "")
    blocks = len(bench.hessian.names)
    found: dict[str, History] = {}
    seconds = bench.long_run(lambda: found.update(record(bench.hessian)))
    each = seconds.processor / sum(map(len, found.values()))
    print(f"{args.size}: a step of {blocks} blocks costs {each * blocks:.1f} gradients", flush=True)
    rough = bench.operator(screening=True)
    trials: dict[float, tuple[float, dict[str, tuple[float, float]], list[float]]] = {}
    for tolerance in (0.02, 0.01):
        made: list[tuple[dict[str, tuple[float, float]], list[float]]] = []
        timed = bench.long_run(lambda t=tolerance, m=made: m.append(verified(rough, bench.hessian, t)))
        trials[tolerance] = (timed.processor, *made[0])
    sure = lanczos(bench.hessian, max_steps=SURE, ends=(TOP, BOTTOM), tolerance=0, seed=1)
    rules: dict[str, Callable[[History], bool]] = {
        "residual at most 1 % (in use)": by_residual, "Temple's estimate at most 1 %": by_temple,
        "moved by at most 1 % in a step": by_change(0.01, 1), "moved by at most 0.1 % in a step": by_change(0.001, 1),
        "moved by at most 0.1 % in each of two steps": by_change(0.001, 2),
    }
    for name, rule in rules.items():
        stopped = {
            block: next((past[step] for step in range(len(past)) if rule(past[: step + 1])), past[-1])
            for block, past in found.items()
        }
        steps = sum(item.steps for item in stopped.values())
        ends = {block: (item.top, item.bottom) for block, item in stopped.items()}
        print(f"| {name} | {steps} | {steps * each:.0f} | {missed(ends, sure)} |", flush=True)
    for tolerance, (cost, held, rest) in trials.items():
        print(f"| bfloat16 steps to {tolerance:.0%}, float32 verification | – | {cost:.0f} | {missed(held, sure)}; "
              f"float32 residual: median {np.median(rest):.1%}, above 1 % in {sum(r > ASKED for r in rest)} |")


if __name__ == "__main__":
    main()
