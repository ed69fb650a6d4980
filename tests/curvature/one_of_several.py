"""One process of a group: makes products and estimates together with the others, and writes them to a file.

Run by `test_distributed.py` with the rank, the number of processes, a file for their meeting and one for the results.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

sys.path.insert(0, str(Path(__file__).parents[1]))

from attnscope.anatomy.blocks import Block, ParameterSlice, Role
from attnscope.curvature.distributed import AcrossProcesses, shared_hessian
from attnscope.curvature.hessian import Hessian
from attnscope.curvature.hutchinson import trace
from attnscope.curvature.lanczos import BOTTOM, TOP, lanczos
from attnscope.curvature.operator import BlockOperator, Probes
from attnscope.curvature.spot_check import spot_check
from attnscope.curvature.survey import Survey
from attnscope.errors import CaseError
from reference.curvature_cases import TinyAttention, tiny_batch, tiny_blocks, tiny_loss


def model_and_batches():
    torch.manual_seed(3)
    return TinyAttention(), [tiny_batch(7), tiny_batch(4, seed=1), tiny_batch(2, seed=2)]


def estimates(operator: BlockOperator):
    probes = Probes(operator, 5)
    product = operator.matvec({name: probes.gaussian(name, 0) for name in operator.names})
    pruned = operator.matvec({"L0.Q": probes.gaussian("L0.Q", 1)}, ("L0.K",))
    survey = Survey(operator, seed=2)
    ritz = lanczos(operator, max_steps=12, ends=(TOP, BOTTOM))
    return {
        "product": product, "pruned": pruned,
        "norms": torch.from_numpy(survey.run(max_products=40).norms),
        "traces": torch.tensor([item.value for item in trace(operator, n_probes=3).values()]),
        "tops": torch.tensor([item.top for item in ritz.values()]),
    }


def one_process(dtype):
    model, batches = model_and_batches()
    return estimates(Hessian(model, batches, tiny_loss, tiny_blocks(model), dtype=dtype))


def perceptron():
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    batch = torch.randn(8, 4), torch.randint(0, 3, (8,))
    halves = tuple(
        Block(name, Role.MLP, (ParameterSlice("0.weight", (6, 4), dim, ranges), ParameterSlice("2.weight", (3, 6))))
        if name == "mixed" else Block(name, Role.MLP, (ParameterSlice("0.weight", (6, 4), dim, ranges),))
        for name, dim, ranges in (("upper", 0, ((0, 3),)), ("mixed", 0, ((3, 6),)))
    )
    return model, batch, halves


def perceptron_loss(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def of_perceptron(model, batch, halves):
    operator = Hessian(model, [batch], perceptron_loss, halves, dtype=torch.float32)
    probes = Probes(operator, 1)
    return {
        "product": operator.matvec({name: probes.gaussian(name, 0) for name in operator.names}),
        "gradient": operator.gradient(),
        "tops": torch.tensor([item.top for item in lanczos(operator, max_steps=20).values()]),
    }


def main(rank: int, world: int, meeting: str, results: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    model, batches = model_and_batches()
    found = {}
    for dtype in (torch.float64, torch.float32):
        shared = shared_hessian(model, batches, tiny_loss, tiny_blocks(model), dtype=dtype)
        found[str(dtype)] = estimates(shared)
        found[f"pieces {dtype}"] = shared.hessian.mine
    alone = [tiny_batch(7)]
    cut = shared_hessian(model, alone, tiny_loss, tiny_blocks(model), dtype=torch.float64)
    found["cut"] = cut.matvec({"L0.Q": Probes(cut, 5).gaussian("L0.Q", 0)})
    found["n cut"] = len(cut.hessian.objective.pieces)
    try:
        AcrossProcesses(Hessian(model, alone, tiny_loss, tiny_blocks(model)))
    except CaseError as error:
        found["refused"] = str(error)
    model, batch, halves = perceptron()
    mesh = init_device_mesh("cpu", (world,))
    parallelize_module(model, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    found["tensor parallel"] = of_perceptron(model, batch, halves)
    try:
        spot_check(Hessian(model, [batch], perceptron_loss, halves))
    except CaseError as error:
        found["not checked"] = str(error)
    found["spread"] = type(model[0].weight).__name__
    model, batch, halves = perceptron()
    try:
        Hessian(fully_shard(model), [batch], perceptron_loss, halves)
    except CaseError as error:
        found["fsdp"] = str(error)
    torch.save(found, results)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
