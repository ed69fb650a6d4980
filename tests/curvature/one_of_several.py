"""One process of a group: makes products and estimates together with the others, and writes them to a file.

Run by `test_distributed.py` with the rank, the number of processes, a file for their meeting and one for the results.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

sys.path.insert(0, str(Path(__file__).parents[1]))

from attnscope.anatomy.blocks import Block, ParameterSlice, Role
from attnscope.curvature.cohen2022adaptive import seen_by
from attnscope.curvature.combined import Joined
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


def in_training(shard):
    """A model sharded as a whole and in a part, that has made a step, and whose root still holds whole parameters."""
    model, batches = model_and_batches()
    shard(model.mlp)
    shard(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    tiny_loss(model, batches[0]).backward()
    optimizer.step()
    optimizer.zero_grad()
    model(batches[0][0])
    return model, batches, optimizer


def fully_sharded(policy: MixedPrecisionPolicy):
    model, batches = model_and_batches()
    fully_shard(model.mlp, mp_policy=policy)
    fully_shard(model, mp_policy=policy)
    before = model(batches[0][0]).detach()
    found = estimates(shared_hessian(model, batches, tiny_loss, tiny_blocks(model), dtype=torch.float64))
    found["as before"] = torch.equal(model(batches[0][0]).detach(), before)
    tiny_loss(model, batches[0]).backward()
    found["still sharded"] = all(
        isinstance(item, DTensor) and isinstance(item.grad, DTensor) for item in model.parameters()
    )
    return found


def by_another_method():
    """The loss calls the model by a method that FSDP2 has wrapped as it wraps forward."""
    model, batch, halves = perceptron()
    model.logits = model.forward
    register_fsdp_forward_method(fully_shard(model), "logits")

    def loss(model, batch):
        return nn.functional.cross_entropy(model.logits(batch[0]), batch[1])

    operator = Hessian(model, [batch], loss, halves, dtype=torch.float64)
    return operator.matvec({"upper": Probes(operator, 1).gaussian("upper", 0)})


def sharpness_seen(shard):
    """What Adam sees, by its own state, which FSDP2 shards too."""
    model, batches, optimizer = in_training(shard)
    operator = Hessian(model, batches, tiny_loss, tiny_blocks(model), dtype=torch.float64)
    return lanczos(Joined(seen_by(optimizer, model, operator.blocks, operator)), max_steps=12)["all"].top


def sharded_twice():
    mesh = init_device_mesh("cpu", (1, 2), mesh_dim_names=("data", "tensor"))
    model, batch, halves = perceptron()
    parallelize_module(model, mesh["tensor"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
    try:
        Hessian(fully_shard(model, mesh=mesh["data"]), [batch], perceptron_loss, halves)
    except CaseError as error:
        return str(error)
    return "taken"


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
    found["fsdp"] = fully_sharded(MixedPrecisionPolicy())
    found["fsdp rounded"] = fully_sharded(MixedPrecisionPolicy(param_dtype=torch.bfloat16, output_dtype=torch.bfloat16))
    found["fsdp method"] = by_another_method()
    found["fsdp seen"] = sharpness_seen(fully_shard)
    if world == 2:
        found["fsdp twice"] = sharded_twice()
    torch.save(found, results)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
