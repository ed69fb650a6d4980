"""How the cost of products grows with layers, width, length, vocabulary and blocks, beside what counting predicts.

    OMP_NUM_THREADS=1 python benchmarks/curvature_scaling.py --svg docs/images/curvature_scaling.svg --json scaling.json

Counted in operations, with F one forward pass: a gradient is 3F; a product on a kept graph runs the tangent forward
and the adjoint back, with two matrix products for each of the forward's, 6F: 2 gradients. A vector on one block needs
only what comes after the block; averaged over blocks that is 1 gradient for all outputs. For the block's own output
only what lies between it and the loss is needed: a half of 2F + 2F on average, less the weights' own products: 0.4.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import torch
from curvature_setup import Setup, Size, forget_peak, interleaved, loss, mebibytes, timed, whole
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from attnscope.anatomy.blocks import Block, Role
from attnscope.curvature.hessian import Hessian
from attnscope.curvature.operator import Probes
from attnscope.models.gpt import Gpt
from attnscope.pages.curvature_page import alone
from attnscope.pages.scale import LOG, Scale
from attnscope.pages.svg import element, line, picture, polyline, words

MIDDLE = Size(4, 128, 4, 1000, 8, 32)
SERIES = {"whole product": 2.0, "one block, all outputs": 1.0, "one block, own output": 0.4}
AXES: dict[str, tuple[tuple[int, ...], Callable[[int], Size]]] = {
    "layers": ((2, 4, 8, 16), lambda n: replace(MIDDLE, layers=n)),
    "width": ((64, 128, 256, 512), lambda n: replace(MIDDLE, width=n)),
    "length": ((16, 32, 64, 128), lambda n: replace(MIDDLE, length=n)),
    "batch": ((4, 8, 16, 32), lambda n: replace(MIDDLE, batch=n)),
    "vocabulary": ((1000, 8000, 30000), lambda n: replace(MIDDLE, vocabulary=n)),
}


def costs(setup: Setup, repeats: int) -> dict[str, float]:
    """Each series in gradients; the blocks' costs are means over a few of them."""
    hessian = Hessian(setup.model, [setup.batch], loss, setup.blocks, check=False)
    probes = Probes(hessian, 0)
    names = hessian.names
    vector = {name: probes.gaussian(name, 0) for name in names}
    hessian.matvec(vector)
    some = names[:: max(1, len(names) // 12)]

    def each(out: Callable[[str], Iterable[str]]) -> Callable[[], None]:
        def run() -> None:
            for name in some:
                hessian.matvec({name: vector[name]}, tuple(out(name)))

        return run

    found = interleaved({
        "whole product": lambda: hessian.matvec(vector),
        "one block, all outputs": each(lambda name: names),
        "one block, own output": each(lambda name: (name,)),
        "gradient": setup.gradient,
    }, repeats)
    unit = found.pop("gradient").processor
    return {
        name: seconds.processor / unit / (1 if name == "whole product" else len(some))
        for name, seconds in found.items()
    }


def by_blocks(repeats: int) -> dict[int, float]:
    """One own product for every block, in gradients, for finer and finer cuts of the same weights."""
    setup = Setup.of(MIDDLE)
    unit = interleaved({"gradient": setup.gradient}, repeats)["gradient"].processor
    found = {}
    for n_heads in (1, 2, 4, 8, 16):
        cut = Setup(replace(MIDDLE, heads=n_heads), setup.model, setup.batch, setup.blocks).head_blocks()
        blocks = [replace(block, role=Role.QUERY) for block in cut]
        hessian = Hessian(setup.model, [setup.batch], loss, blocks, check=False)
        probes = Probes(hessian, 0)
        hessian.own(blocks[-1].name, probes.gaussian(blocks[-1].name, 0))
        vectors = {block.name: probes.gaussian(block.name, 0) for block in blocks}
        seconds = timed(lambda h=hessian, v=vectors: [h.own(name, vector) for name, vector in v.items()])
        found[len(blocks)] = seconds.processor / unit
    return found


def vocabulary_memory(n_tokens: int, lean: bool, product: bool) -> float:
    """Peak of a gradient or of a product of a language model's loss, in sizes of its logits; in a fresh process."""
    model = Gpt(n_layers=2, d_model=64, n_heads=4, n_tokens=n_tokens, n_positions=64).eval()
    tokens = torch.randint(0, n_tokens, (8, 65), generator=torch.Generator().manual_seed(0))
    named = dict(model.named_parameters())
    blocks = [Block(name, Role.ENCODER, (whole(name, p),)) for name, p in named.items() if "attention" in name]

    def value(module: nn.Module, batch: Tensor) -> Tensor:
        logits = module(batch[:, :-1]).flatten(0, 1)
        # A weight of one for each class is the same loss, in PyTorch's own form.
        weight = None if lean else torch.ones(n_tokens)
        return cross_entropy(logits, batch[:, 1:].reshape(-1), weight=weight)

    forget_peak()
    start = mebibytes("VmRSS")
    if product:
        operator = Hessian(model, [tokens], value, blocks, check=False)
        probes = Probes(operator, 0)
        operator.matvec({name: probes.gaussian(name, 0) for name in operator.names})
    else:
        torch.autograd.grad(value(model, tokens), [named[block.name] for block in blocks])
    return (mebibytes("VmHWM") - start) / (8 * 64 * n_tokens * 4 / 2**20)


def in_a_fresh_process(*arguments: object) -> float:
    """What this script prints with `--peak` and these arguments."""
    command = [sys.executable, __file__, "--peak", *map(str, arguments)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def draw(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """Panels, one per axis; dashed lines are what counting predicts."""
    width, height, left, gap = 300.0, 190.0, 46.0, 66.0
    parts = []
    for number, (axis, rows) in enumerate(found.items()):
        x0, y0 = (number % 3) * (width + 30), (number // 3) * (height + gap)
        values = [float(key) for key in rows]
        across = Scale(min(values), max(values), LOG)
        top = max(4.5, *(cost for row in rows.values() for cost in row.values()))
        if axis == "blocks":
            top *= 1.1
        up = Scale(0.0, top)

        def place(x: float, y: float, x0: float = x0, y0: float = y0, across: Scale = across, up: Scale = up) -> (
            tuple[float, float]
        ):
            return x0 + left + (width - left) * across.at(x), y0 + 20 + (height - 20) * (1 - up.at(y))

        parts.append(words(f"gradients against {axis}", x0 + left, y0 + 10))
        for tick in up.ticks(4):
            y = place(values[0], tick)[1]
            parts += [line(x0 + left, y, x0 + width, y, "grid"),
                      words(f"{tick:g}", x0 + left - 6, y + 3.5, anchor="end", class_="t dim")]
        for value in values:
            parts.append(words(f"{value:g}", place(value, 0)[0], y0 + height + 15, anchor="middle", class_="t dim"))
        names = list(next(iter(rows.values())))
        for slot, name in enumerate(names):
            points = [place(value, row[name]) for value, row in zip(values, rows.values(), strict=True)]
            parts.append(element("path", d=polyline(list(points)), class_=f"line s{slot}"))
            if name in SERIES:
                ends = [place(values[0], SERIES[name]), place(values[-1], SERIES[name])]
                parts.append(element("path", d=polyline(list(ends)), class_="limit"))
    bottom = -(-len(found) // 3) * (height + gap)
    for slot, name in enumerate((*SERIES, "predicted")):
        x = left + slot * 210
        parts += [line(x, bottom, x + 22, bottom, f"line s{slot}" if name in SERIES else "limit"),
                  words(name, x + 28, bottom + 4)]
    return alone(picture(3 * (width + 30), bottom + 20, "".join(parts), label="cost of products against size"))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--svg", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak", type=int, nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.peak:
        print(vocabulary_memory(args.peak[0], bool(args.peak[1]), bool(args.peak[2])))
        return
    found: dict[str, dict[str, dict[str, float]]] = {}
    for axis, (values, size) in AXES.items():
        found[axis] = {}
        for value in values:
            found[axis][str(value)] = costs(Setup.of(size(value)), args.repeats)
            print(axis, value, {name: round(cost, 2) for name, cost in found[axis][str(value)].items()}, flush=True)
    found["blocks"] = {str(n): {"own products of all": cost} for n, cost in by_blocks(args.repeats).items()}
    print("blocks", found["blocks"], flush=True)
    memory = {}
    for lean in (1, 0):
        for n_tokens in (32000, 64000):
            key = f"{n_tokens} {'ours' if lean else 'autograd'}"
            memory[key] = [in_a_fresh_process(n_tokens, lean, product) for product in (0, 1)]
            print("memory in sizes of the logits: gradient, product", key, memory[key], flush=True)
    if args.json:
        args.json.write_text(json.dumps({"cost": found, "memory": memory}, indent=1) + "\n", encoding="utf-8")
    if args.svg:
        args.svg.write_text(draw(found), encoding="utf-8")


if __name__ == "__main__":
    main()
