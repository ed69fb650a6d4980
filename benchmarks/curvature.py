"""What curvature costs, in gradients, beside other libraries, on one machine with one thread.

    OMP_NUM_THREADS=1 python benchmarks/curvature.py --size small --peers FOLDER --json small.json
    OMP_NUM_THREADS=1 python benchmarks/curvature.py --size base --only product,step,pairs --json base.json
    python benchmarks/curvature_report.py small.json base.json

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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from curvature_peers import peers, versions
from curvature_setup import SIZES, Seconds, Setup, forget_peak, interleaved, loss, mebibytes, timed

from attnscope.curvature.coupling import Coupling, coupling, row_norms
from attnscope.curvature.deflation import adaptive_coupling
from attnscope.curvature.hessian import Hessian
from attnscope.curvature.hutchinson import trace
from attnscope.curvature.lanczos import BOTTOM, TOP, Ritz, lanczos
from attnscope.curvature.operator import Probes
from attnscope.formats.numbers import count

TRAINING = 60
STEPS = 3  # of Lanczos, to time one
SURE = 24  # of Lanczos, for a reference
PRECISION = 0.10
TRUTH = 8  # products per block of the reference matrix
Floats = npt.NDArray[np.float64]


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

    @property
    def large(self) -> bool:
        """Whether a gradient takes seconds."""
        return self.setup.size.width > 500

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
    others, missing, given = peers(bench.setup, shaped, bench.peers)
    runs: dict[str, Callable[[], object]] = {"ours": lambda: bench.hessian.matvec(vector), **others}
    found = interleaved({**runs, "gradient": bench.setup.gradient}, bench.repeats)
    unit = found.pop("gradient")
    ours = torch.cat(list(bench.hessian.matvec(vector).values()))
    for name, seconds in found.items():
        kept = name in ("ours", "PyHessian, one batch")
        note = "graph kept between products" if kept else "two gradients" if "finite" in name else "graph made anew"
        if name != "ours":
            theirs = torch.cat([piece.reshape(-1) for piece in given[name]])
            note += f"; differs from ours by {float((theirs - ours).norm() / ours.norm()):.0e}"
        yield Row(f"one product: {name}", seconds.processor / unit.processor, 2.0 if name == "ours" else None,
                  seconds.wall / unit.wall, note=note)
    for name, why in missing.items():
        yield Row(f"one product: {name}", float("nan"), note=why)


def reuse(bench: Bench) -> Iterator[Row]:
    """One product alone, in turns with a gradient and nothing else."""
    vector = {name: bench.probes.gaussian(name, 0) for name in bench.hessian.names}
    seconds = bench.per_gradient(lambda: bench.hessian.matvec(vector))
    yield Row("one product, graph kept, in turns with a gradient only", seconds.processor, 2.0, seconds.wall,
              note=f"median of {bench.repeats}")


def step(bench: Bench) -> Iterator[Row]:
    """One Lanczos step of all blocks together."""
    steps = 1 if bench.large else STEPS
    seconds = bench.per_gradient(lambda: lanczos(bench.hessian, max_steps=steps, tolerance=0))
    yield Row(f"one block-diagonal Lanczos step, {len(bench.hessian.names)} blocks", seconds.processor / steps, 17,
              seconds.wall / steps, note=f"{count(steps, 'step')}, orthogonalisation included")


def ends(bench: Bench) -> Iterator[Row]:
    """Both ends of every block's spectrum: stopped by the residual, and after as many steps as the budget allows."""
    sure = lanczos(bench.hessian, max_steps=SURE, ends=(TOP, BOTTOM), tolerance=0, seed=1)
    for name, more, target in (
        ("until the residual is 1 %", {"max_steps": 40, "tolerance": 0.01}, 120),
        ("7 steps each, which the target would buy", {"max_steps": 7, "tolerance": 0}, None),
    ):
        kept: dict[str, Ritz] = {}
        seconds = bench.long_run(lambda m=more, k=kept: k.update(lanczos(bench.hessian, ends=(TOP, BOTTOM), **m)))
        off: dict[str, list[float]] = {"top": [], "bottom": [], "larger": []}
        for block, item in kept.items():
            true = sure[block]
            scale = max(abs(true.top), abs(true.bottom))
            off["top"].append(abs(item.top - true.top) / scale)
            off["bottom"].append(abs(item.bottom - true.bottom) / scale)
            off["larger"].append(off["top"][-1] if true.top >= -true.bottom else off["bottom"][-1])
        wrong = ", ".join(
            f"{end} end off by more than 1 % of the block's largest eigenvalue in {sum(e > 0.01 for e in each)} "
            f"(most {max(each):.1%})" for end, each in off.items()
        )
        steps = sum(item.steps for item in kept.values())
        yield Row(f"both ends of all blocks' spectra, {name}", seconds.processor, target, seconds.wall,
                  note=f"{steps} products; against {SURE} steps from another start: {wrong}")


def pairs(bench: Bench) -> Iterator[Row]:
    """One probe for every pair; of a large model, evenly chosen blocks stand for all."""
    names = bench.hessian.names
    stride = 3 if bench.large else 1
    some = [(row, name, bench.probes.rademacher(name, 0)) for row, name in enumerate(names)][stride // 2 :: stride]
    note = f"{len(some)} of {len(names)} blocks, evenly chosen" if bench.large else ""
    for what, target in (("each pair once", 36), ("from either side", None)):
        if target is None and bench.large:
            continue

        def run(whole: bool = target is None) -> None:
            for row, name, vector in some:
                bench.hessian.matvec({name: vector}, names if whole else names[: row + 1])

        seconds = bench.per_gradient(run)
        share = len(names) / len(some)
        yield Row(f"one probe for every pair, {what}", share * seconds.processor, target, share * seconds.wall,
                  note=note)


def median_error(norms: Floats, truth: Coupling) -> float:
    """Median relative error of the norms of all pairs of different blocks."""
    rows = np.triu_indices(len(truth.blocks), 1)
    return float(np.median(np.abs(norms[rows] / truth.norms[rows] - 1)))


@dataclass(frozen=True)
class Way:
    """One way to the matrix of couplings: what it costs, and the error it has."""

    name: str
    cost: Seconds
    error: float


def matrix(bench: Bench) -> Iterator[Row]:
    """All couplings at 10 % median error: ours, and peers brought to the same error."""
    truth = adaptive_coupling(bench.hessian, n_probes=TRUTH, seed=1234)
    above = np.triu_indices(len(truth.blocks), 1)
    own = float(np.median((truth.norm_stderr / truth.norms)[above]))
    ways = [*_plain(bench, truth), *_deflated(bench, truth)]
    for way in ways:
        yield Row(f"full coupling matrix, {way.name}", way.cost.processor, None, way.cost.wall,
                  note=f"median error {way.error:.1%}")
    good = [way for way in ways if way.error <= PRECISION]
    if not good:
        yield Row("full coupling matrix at 10 % median error", float("nan"), 110, note="not reached")
        return
    best = min(good, key=lambda way: way.cost.processor)
    yield Row("full coupling matrix at 10 % median error", best.cost.processor, 110, best.cost.wall,
              note=f"{best.name}; median error {best.error:.1%} against {TRUTH} products per block, whose own median "
                   f"standard error is {own:.1%}")
    yield from _by_peers(bench, best, ways)


def _plain(bench: Bench, truth: Coupling) -> Iterator[Way]:
    """Plain probes, from one on: each pair once, and from either side."""
    names = bench.hessian.names
    both, once = [np.zeros((4, len(names), len(names))) for _ in range(2)]
    seeds = 2
    errors = np.zeros((2, 4))
    seconds: dict[str, Seconds] = {}
    for seed in range(seeds):
        probes = Probes(bench.hessian, 50 + seed)
        for number in range(4):
            for row, name in enumerate(names):
                product = bench.hessian.matvec({name: probes.rademacher(name, number)})
                both[number, row] = [float(product[other].double().square().sum()) for other in names]
            mean = both[: number + 1].mean(0)
            once[number] = np.sqrt(np.tril(mean) + np.tril(mean, -1).T)
            errors[0, number] += median_error(once[number], truth) / seeds
            errors[1, number] += median_error(np.sqrt((mean + mean.T) / 2), truth) / seeds
    vectors = {name: bench.probes.rademacher(name, 0) for name in names}
    outs = {"each pair once": {name: names[: row + 1] for row, name in enumerate(names)},
            "from either side": dict.fromkeys(names, names)}
    for kind, out in outs.items():
        seconds[kind] = bench.long_run(
            lambda out=out: [bench.hessian.matvec({name: vectors[name]}, out[name]) for name in names]
        )
    for row, kind in enumerate(outs):
        for number in range(4):
            cost = Seconds(*((number + 1) * value for value in (seconds[kind].processor, seconds[kind].wall)))
            yield Way(f"{number + 1} plain probes per block, {kind}", cost, float(errors[row, number]))


def _deflated(bench: Bench, truth: Coupling) -> Iterator[Way]:
    """The pilot decides how the products are spent."""
    for n_probes in (2, 3):
        costs, errors = [], []
        for seed in range(1):
            kept: list[Coupling] = []
            costs.append(bench.long_run(
                lambda n=n_probes, s=seed, k=kept: k.append(adaptive_coupling(bench.hessian, n_probes=n, seed=s))
            ))
            errors.append(median_error(kept[0].norms, truth))
        cost = Seconds(*(float(np.median([getattr(each, key) for each in costs])) for key in ("processor", "wall")))
        yield Way(f"adaptive, {n_probes} products planned per block", cost, float(np.mean(errors)))


def _by_peers(bench: Bench, ours: Way, ways: Sequence[Way]) -> Iterator[Row]:
    """What a peer needs for the same error: plain probes from either side, each a padded product."""
    n_blocks, name = len(bench.hessian.names), bench.hessian.names[len(bench.hessian.names) // 2]
    plain = [way for way in ways if "either side" in way.name]
    needed = next((number for number, way in enumerate(plain, 1) if way.error <= max(ours.error, 0.0)), None)
    at_target = next((number for number, way in enumerate(plain, 1) if way.error <= PRECISION), None)
    padded = [
        bench.probes.rademacher(name, 0).view(b.slices[0].shape) if b.name == name else torch.zeros(b.slices[0].shape)
        for b in bench.setup.blocks
    ]
    others, _, _ = peers(bench.setup, padded, bench.peers)
    found = interleaved({**others, "gradient": bench.setup.gradient}, bench.repeats)
    unit = found.pop("gradient")
    best = float("inf")
    for peer, each in found.items():
        probes = at_target or len(plain)
        cost = probes * n_blocks * each.processor / unit.processor
        library = peer not in ("naive double backward", "finite difference")
        best = min(best, cost) if library else best
        short = "" if at_target else ", which does not reach it"
        yield Row(f"10 % by plain probes, {peer}", cost, None, probes * n_blocks * each.wall / unit.wall,
                  note=f"{probes} per block{short}, {each.processor / unit.processor:.2f} gradients a product")
    note = "the target is at least four times cheaper"
    if at_target is None:
        note += "; the library's error is still larger"
    elif needed is None or needed != at_target:
        note += f"; for ours' own error of {ours.error:.1%} it needs {needed or 'more than 4'} probes per block"
    yield Row("ours at 10 %, as a share of the best library's cost", ours.cost.processor / best, 0.25, unit="ratio",
              note=note)


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
    "product": product, "reuse": reuse, "step": step, "ends": ends, "pairs": pairs, "matrix": matrix,
    "screening": screening, "heads": heads, "memory": memory,
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


def measure(args: argparse.Namespace) -> None:
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
            found = {"size": args.size, "setup": str(bench.setup.size), "training": args.training,
                     "repeats": args.repeats, "gradient_seconds": bench.unit.processor,
                     "gradient_wall": bench.unit.wall, "environment": before,
                     "seconds": time.perf_counter() - started, "rows": rows}
            if args.json:  # after each row, so that an interruption loses little
                args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


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
    measure(args)


if __name__ == "__main__":
    main()
