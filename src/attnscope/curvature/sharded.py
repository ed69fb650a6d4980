"""Parameters that are spread over devices as DTensors (tensor parallelism), and models that hide theirs (FSDP)."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from attnscope.errors import CaseError


def full(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be spread over devices; every process gets it, and all must ask."""
    if dist.is_available() and dist.is_initialized():
        from torch.distributed.tensor import DTensor

        if isinstance(tensor, DTensor):
            found: Tensor = tensor.full_tensor()
            return found
    return tensor


def spread_as(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor, spread as a parameter is; every process must hold the same."""
    if dist.is_available() and dist.is_initialized():
        from torch.distributed.tensor import DTensor, distribute_tensor

        if isinstance(parameter, DTensor):
            return distribute_tensor(tensor, parameter.device_mesh, parameter.placements)
    return tensor


def refuse_hidden_parameters(model: nn.Module) -> None:
    """Refuses a model that computes with other tensors than the parameters it shows.

    Raises:
        CaseError: the model, or a part of it, is sharded by FSDP.
    """
    for name, module in model.named_modules():
        kinds = {kind.__name__ for kind in type(module).__mro__}
        if kinds & {"FSDPModule", "FullyShardedDataParallel"}:
            where = f"module {name!r}" if name else "the model"
            raise CaseError(
                f"{where} is sharded by FSDP, which gathers other tensors for each pass and frees them before a second "
                "derivative can be taken. Use the model before fully_shard with shared_hessian, which shares the data "
                "between processes, or shard it by tensor parallelism (parallelize_module)"
            )


def zeros(parameter: Tensor) -> Tensor:
    """A whole tensor of zeros in the shape of a parameter that may be spread."""
    return torch.zeros(parameter.shape, dtype=parameter.dtype, device=parameter.device)
