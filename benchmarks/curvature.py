"""What curvature costs, in gradients, beside other libraries, on one machine with one thread.

    OMP_NUM_THREADS=1 python benchmarks/curvature.py --size small --peers FOLDER --json small.json
    OMP_NUM_THREADS=1 python benchmarks/curvature.py --size base --only product,step,pairs --json base.json
    python benchmarks/curvature.py --render small.json base.json --write docs/curvature_benchmark.md

The unit is one plain gradient of the same loss, model, batch and parameters, measured in the same run; processor
seconds and seconds on the wall are both given, medians over turns. `benchmarks/curvature_peers.py` says how the peers
are installed, `benchmarks/curvature_scaling.py` draws cost against layers, width, length, vocabulary and blocks.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from curvature_peers import peers, versions
from curvature_setup import SIZES, Seconds, Setup, forget_peak, interleaved, loss, mebibytes, timed

from attnscope.curvature.coupling import Coupling, coupling, row_norms
from attnscope.curvature.deflation import adaptive_coupling
from attnscope.curvature.hessian import Hessian
from attnscope.curvature.hutchinson import trace
from attnscope.curvature.lanczos import BOTTOM, TOP, lanczos
from attnscope.curvature.operator import Probes

TRAINING = 60
STEPS = 4  # of Lanczos, to time one
PRECISION = 0.10


@dataclass
class Row:
    """One line of the table."""

    what: str
    measured: float
    target: float | None = None
    wall: float | None = None
    unit: str = "gradients"
    note: str = ""

    @property
    def met(self) -> str:
        """Whether the target is met."""
        if self.target is None:
            return ""
        return "yes" if self.measured <= self.target else "**no**"


@dataclass
class Bench:
    """One size: the setup, its operator, and the cost of a gradient now."""

    setup: Setup
    repeats: int
    peers: str

    def __post_init__(self) -> None:
        self.hessian = self.operator()
        self.probes = Probes(self.hessian, 7)
        self.setup.gradient()
        self.unit = interleaved({"gradient": self.setup.gradient}, max(self.repeats, 3))["gradient"]

    def operator(self, **more: object) -> Hessian:
        """The Hessian in the 36 blocks, its graph made."""
        made = Hessian(self.setup.model, [self.setup.batch], loss, self.setup.blocks, check=False, **more)  # type: ignore[arg-type]
        name = made.names[-1]
        made.own(name, Probes(made, 0).gaussian(name, 0))
        return made

    def per_gradient(self, run: Callable[[], object], repeats: int | None = None) -> Seconds:
        """A run in gradients; gradients are measured in turns with it."""
        found = interleaved({"run": run, "gradient": self.setup.gradient}, repeats or self.repeats)
        return Seconds(
            found["run"].processor / found["gradient"].processor, found["run"].wall / found["gradient"].wall
        )

    def long_run(self, run: Callable[[], object]) -> Seconds:
        """A run of minutes, once, with gradients before and after it."""
        before = interleaved({"gradient": self.setup.gradient}, 3)["gradient"]
        seconds = timed(run)
        after = interleaved({"gradient": self.setup.gradient}, 3)["gradient"]
        return Seconds(
            2 * seconds.processor / (before.processor + after.processor), 2 * seconds.wall / (before.wall + after.wall)
        )


def product(bench: Bench) -> Iterator[Row]:
    """One product with the whole Hessian, and the same by every peer."""
    vector = {name: bench.probes.gaussian(name, 0) for name in bench.hessian.names}
    shaped = [vector[b.name].view(b.slices[0].shape) for b in bench.setup.blocks]
    others, missing = peers(bench.setup, shaped, bench.peers)
    runs: dict[str, Callable[[], object]] = {"ours": lambda: bench.hessian.matvec(vector), **others}
    found = interleaved({**runs, "gradient": bench.setup.gradient}, bench.repeats)
    unit = found.pop("gradient")
    ours = torch.cat(list(bench.hessian.matvec(vector).values()))
    for name, seconds in found.items():
        note = "graph kept between products" if name == "ours" else "graph made anew, whole vector"
        if name != "ours":
            theirs = torch.cat([piece.reshape(-1) for piece in others[name]()])
            note += f"; differs from ours by {float((theirs - ours).norm() / ours.norm()):.0e}"
        yield Row(f"one product: {name}", seconds.processor / unit.processor, 2.0 if name == "ours" else None,
                  seconds.wall / unit.wall, note=note)
    for name, why in missing.items():
        yield Row(f"one product: {name}", float("nan"), note=why)


def step(bench: Bench) -> Iterator[Row]:
    """One Lanczos step of all blocks together."""
    seconds = bench.per_gradient(lambda: lanczos(bench.hessian, max_steps=STEPS, tolerance=0))
    yield Row(f"one block-diagonal Lanczos step, {len(bench.hessian.names)} blocks", seconds.processor / STEPS, 17,
              seconds.wall / STEPS, note=f"mean of {STEPS} steps, orthogonalisation included")


def ends(bench: Bench) -> Iterator[Row]:
    """Both ends of every block's spectrum to 1 %."""
    kept = {}
    seconds = bench.long_run(
        lambda: kept.update(lanczos(bench.hessian, max_steps=40, ends=(TOP, BOTTOM), tolerance=0.01))
    )
    steps = sum(item.steps for item in kept.values())
    note = f"{steps} products on own blocks, trained model"
    if bench.setup.size.width <= 300:
        sure = lanczos(bench.hessian, max_steps=80, ends=(TOP, BOTTOM), tolerance=1e-4, seed=1)
        scale = {name: max(abs(item.top), abs(item.bottom)) for name, item in sure.items()}
        errors = [
            abs(value) / max(abs(true), 0.1 * scale[name])
            for name in kept
            for value, true in (
                (kept[name].top - sure[name].top, sure[name].top),
                (kept[name].bottom - sure[name].bottom, sure[name].bottom),
            )
        ]
        note += f"; largest error against a run to 0.01 %: {max(errors):.2%}"
    yield Row("top eigenvalues of all blocks, both ends, to 1 %", seconds.processor, 120, seconds.wall, note=note)


def pairs(bench: Bench) -> Iterator[Row]:
    """One probe for every pair, each pair once."""
    names = bench.hessian.names
    requests = [(name, bench.probes.rademacher(name, 0), names[: row + 1]) for row, name in enumerate(names)]

    def run() -> None:
        for name, vector, out in requests:
            bench.hessian.matvec({name: vector}, out)

    def both() -> None:
        for name, vector, _ in requests:
            bench.hessian.matvec({name: vector})

    seconds = bench.per_gradient(run)
    yield Row("one probe for every pair, each pair once", seconds.processor, 36, seconds.wall)
    seconds = bench.per_gradient(both, 1)
    yield Row("one probe for every pair, from either side", seconds.processor, None, seconds.wall)


def off_diagonal_error(found: Coupling, truth: Coupling) -> float:
    """Median relative error of the norms of all pairs of different blocks."""
    rows = np.triu_indices(len(truth.blocks), 1)
    return float(np.median(np.abs(found.norms[rows] / truth.norms[rows] - 1)))


def matrix(bench: Bench) -> Iterator[Row]:
    """All couplings at 10 % median error: ours, plain probes, and peers brought to the same error."""
    truth = adaptive_coupling(bench.hessian, n_probes=24, seed=1234)
    told = truth.norm_stderr[np.triu_indices(len(truth.blocks), 1)] / truth.norms[np.triu_indices(len(truth.blocks), 1)]
    ours: tuple[Seconds, float, int] | None = None
    for n_probes in (2, 3, 4, 6):
        errors, costs = [], []
        for seed in range(3):
            kept: list[Coupling] = []
            costs.append(bench.long_run(
                lambda n=n_probes, s=seed, k=kept: k.append(adaptive_coupling(bench.hessian, n_probes=n, seed=s))
            ))
            errors.append(off_diagonal_error(kept[0], truth))
        seconds = Seconds(*(float(np.median([getattr(c, key) for c in costs])) for key in ("processor", "wall")))
        yield Row(f"full coupling matrix, {n_probes} planned products per block", seconds.processor, None, seconds.wall,
                  note=f"median error {np.mean(errors):.1%} (three seeds)")
        if np.mean(errors) <= PRECISION:
            ours = seconds, float(np.mean(errors)), n_probes
            break
    if ours is None:
        yield Row("full coupling matrix at 10 % median error", float("nan"), 110, note="not reached with 6 products")
        return
    yield Row("full coupling matrix at 10 % median error", ours[0].processor, 110, ours[0].wall,
              note=f"median error {ours[1]:.1%}; reference: 24 products per block, its own standard error "
                   f"{np.median(told):.1%}")
    yield from _plain(bench, truth, ours[0])


def _plain(bench: Bench, truth: Coupling, ours: Seconds) -> Iterator[Row]:
    """Plain probes until the error is the same, with our pruned products and with the peers' padded ones."""
    n_blocks, needed, error = len(truth.blocks), 0, 1.0
    for n_probes in (4, 6, 8, 10, 12, 16, 20, 24):
        error = float(np.mean([
            off_diagonal_error(coupling(bench.hessian, n_probes=n_probes, seed=seed), truth) for seed in range(2)
        ]))
        needed = n_probes
        if error <= PRECISION:
            break
    seconds = bench.long_run(lambda: coupling(bench.hessian, n_probes=needed, seed=5))
    yield Row("the same error by plain probes, our products", seconds.processor, None, seconds.wall,
              note=f"{needed} probes per block, median error {error:.1%}")
    name = bench.hessian.names[n_blocks // 2]
    padded = [
        bench.probes.rademacher(name, 0).view(b.slices[0].shape) if b.name == name else torch.zeros(b.slices[0].shape)
        for b in bench.setup.blocks
    ]
    others, _ = peers(bench.setup, padded, "")
    best = float("inf")
    found = interleaved({**others, "gradient": bench.setup.gradient}, bench.repeats)
    unit = found.pop("gradient")
    for peer, each in found.items():
        cost = needed * n_blocks * each.processor / unit.processor
        if peer not in ("naive double backward", "finite difference"):
            best = min(best, cost)
        yield Row(f"the same error by plain probes, {peer}", cost, None, needed * n_blocks * each.wall / unit.wall,
                  note=f"{needed * n_blocks} products of {each.processor / unit.processor:.2f} gradients")
    yield Row("ours, as a share of the best library's cost", ours.processor / best, 0.25, unit="ratio",
              note="the target is at least four times cheaper")


def screening(bench: Bench) -> Iterator[Row]:
    """bfloat16 products: their cost beside float32, and what they do to block norms."""
    low = bench.operator(screening=True)
    vector = {name: bench.probes.gaussian(name, 0) for name in low.names}
    found = interleaved(
        {"full": lambda: bench.hessian.matvec(vector), "low": lambda: low.matvec(vector)}, bench.repeats
    )
    ratio = found["low"].processor / found["full"].processor
    yield Row("screening in bfloat16: share of a float32 product's cost", ratio, 0.5,
              found["low"].wall / found["full"].wall, "ratio", f"processor: {_bf16()}")
    errors = []
    for name in low.names[::5]:
        probe = bench.probes.rademacher(name, 3)
        fine, coarse = bench.hessian.matvec({name: probe}), low.matvec({name: probe})
        errors += [abs(float(coarse[b].norm() / fine[b].norm()) - 1) for b in fine if float(fine[b].norm()) > 0]
    yield Row("screening: median error of block norms", float(np.median(errors)), 0.005, unit="relative",
              note=f"95 % below {np.quantile(errors, 0.95):.2%}, largest {max(errors):.2%}")


def _bf16() -> str:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return "unknown"
    found = [name for name in ("amx_bf16", "avx512_bf16", "avx_ne_convert") if name in flags]
    return ", ".join(found) or "no bfloat16 instructions"


def heads(bench: Bench) -> Iterator[Row]:
    """Traces and rows by head beside the same by projection."""
    attention = [block for block in bench.setup.blocks if block.name[-1] in "QKV"]
    cut = bench.setup.head_blocks()
    coarse = Hessian(bench.setup.model, [bench.setup.batch], loss, attention, check=False)
    fine = Hessian(bench.setup.model, [bench.setup.batch], loss, cut, check=False)
    groups = {block.name: [head.name for head in cut if head.name.startswith(block.name + ".")] for block in attention}
    for operator in (coarse, fine):
        operator.own(operator.names[-1], Probes(operator, 0).gaussian(operator.names[-1], 0))
    found = interleaved({
        "trace of projections": lambda: trace(coarse, n_probes=2),
        "trace of heads": lambda: trace(fine, n_probes=2, together=groups.values()),
        "rows of projections": lambda: coupling(coarse, n_probes=2),
        "rows of heads": lambda: row_norms(fine, groups, n_probes=2),
    }, max(1, bench.repeats // 2))
    for what, note in (("trace", "traces"), ("rows", "norms of heads (rows) against projections (columns)")):
        above, below = found[f"{what} of heads"], found[f"{what} of projections"]
        yield Row(f"{note}, {len(cut)} heads: share of the cost of {len(attention)} projections",
                  above.processor / below.processor, 1.5, above.wall / below.wall, "ratio")


def memory(bench: Bench) -> Iterator[Row]:
    """Peaks of fresh processes, above the model and its batch."""
    peaks = {what: _peak(bench, what) for what in ("gradient", "product", "split")}
    yield Row("peak memory of a product, graph kept, over a gradient's", peaks["product"] / peaks["gradient"], 4.0,
              unit="ratio", note=f"{peaks['product']:.0f} MiB and {peaks['gradient']:.0f} MiB")
    yield Row("the same with the batch split in four", peaks["split"] / peaks["gradient"], None, unit="ratio",
              note=f"{peaks['split']:.0f} MiB (max_examples)")


def _peak(bench: Bench, what: str) -> float:
    name = next(name for name, size in SIZES.items() if size == bench.setup.size)
    command = [sys.executable, __file__, "--peak", what, "--size", name]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    found = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return float(found.stdout.split()[-1])


def peak(what: str, size: str) -> float:
    """Mebibytes that one thing takes; run in a process of its own."""
    setup = Setup.of(SIZES[size])
    forget_peak()
    before = mebibytes("VmRSS")
    if what == "gradient":
        setup.gradient()
    else:
        more = {"max_examples": setup.size.batch // 4} if what == "split" else {}
        operator = Hessian(setup.model, [setup.batch], loss, setup.blocks, check=False, **more)  # type: ignore[arg-type]
        vector = {name: Probes(operator, 0).gaussian(name, 0) for name in operator.names}
        operator.matvec(vector)
    return mebibytes("VmHWM") - before


ROWS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "product": product, "step": step, "ends": ends, "pairs": pairs, "matrix": matrix, "screening": screening,
    "heads": heads, "memory": memory,
}


def environment() -> dict[str, object]:
    """What the numbers were measured on."""
    cpu = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), cpu)
    except OSError:
        pass
    return {"processor": cpu, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "torch": torch.__version__,
            "python": platform.python_version(), "load": os.getloadavg()[0], **versions()}


def measure(args: argparse.Namespace) -> dict[str, object]:
    """All rows of one size."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    before = environment()
    bench = Bench(Setup.of(SIZES[args.size], training=args.training), args.repeats, args.peers)
    print(f"{bench.setup.size}: a gradient takes {bench.unit.processor:.3f} s of processor", flush=True)
    rows: list[dict[str, object]] = []
    for name in args.only.split(",") if args.only else ROWS:
        for row in ROWS[name](bench):
            print(f"  {row.what}: {row.measured:.3g} {row.unit} (wall {row.wall or float('nan'):.3g}) "
                  f"{'target ' + format(row.target, 'g') if row.target else ''} {row.note}", flush=True)
            rows.append({**asdict(row), "met": row.met})
    return {"size": args.size, "setup": str(bench.setup.size), "training": args.training, "repeats": args.repeats,
            "gradient_seconds": bench.unit.processor, "gradient_wall": bench.unit.wall, "environment": before,
            "seconds": time.perf_counter() - started, "rows": rows}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--only", default="", help=f"rows, by name: {', '.join(ROWS)}")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--training", type=int, default=TRAINING, help="steps before anything is measured")
    parser.add_argument("--peers", default="", help="folder of the peers that are not installed")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        print(peak(args.peak, args.size))
        return
    found = measure(args)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
