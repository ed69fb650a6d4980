"""How much faster several processes make products together: `python benchmarks/curvature_processes.py [--size small]`.

Processor seconds are per process; seconds on the wall mean something only when every process has a core of its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from curvature_setup import SIZES, Setup, interleaved, loss

from attnscope.curvature.distributed import shared_hessian
from attnscope.curvature.hessian import Hessian
from attnscope.curvature.operator import Probes


def work(rank: int, world: int, size: str, meeting: str, repeats: int) -> None:
    """One process: products of the same vector, alone or together."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    setup = Setup.of(SIZES[size])
    if world == 1:
        operator = Hessian(setup.model, [setup.batch], loss, setup.blocks, check=False)
    else:
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
        operator = shared_hessian(setup.model, [setup.batch], loss, setup.blocks, check=False)
    probes = Probes(operator, 0)
    vector = {name: probes.gaussian(name, 0) for name in operator.names}
    operator.matvec(vector)
    found = interleaved({"product": lambda: operator.matvec(vector)}, repeats)["product"]
    if rank == 0:
        print(f"{world} processes: {found.processor:.4f} s of processor each, {found.wall:.4f} s on the wall; "
              f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores", flush=True)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    for world in (1, args.processes):
        with tempfile.TemporaryDirectory() as folder:
            running = [
                context.Process(target=work, args=(rank, world, args.size, str(Path(folder) / "meeting"), args.repeats))
                for rank in range(world)
            ]
            for process in running:
                process.start()
            for process in running:
                process.join()


if __name__ == "__main__":
    main()
