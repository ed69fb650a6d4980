"""Parameters that are spread over devices as DTensors: by tensor parallelism, or by FSDP2, which hides whole ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

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
    """Refuses a model that computes with other tensors than the parameters it shows, and cannot be made to.

    Raises:
        CaseError: the model, or a part of it, is sharded by FSDP's first version, or by FSDP2 over tensor parallelism.
    """
    for name, module in model.named_modules():
        if "FullyShardedDataParallel" in _kinds(module):
            where = f"module {name!r}" if name else "the model"
            raise CaseError(
                f"{where} is sharded by FSDP1 (FullyShardedDataParallel), which keeps flat pieces in the "
                "place of parameters. Use fully_shard (FSDP2), or the model before it was sharded"
            )
    for name, parameter in model.named_parameters():
        shards = [place for place in getattr(parameter, "placements", ()) if place.is_shard()]
        if len(shards) > 1 and any("FSDPModule" in _kinds(module) for module in model.modules()):
            raise CaseError(
                f"parameter {name!r} is sharded twice, by fully_shard and by tensor parallelism; curvature takes one "
                "or the other. Use the model before fully_shard, which leaves it spread by parallelize_module"
            )


def gathered(model: nn.Module) -> frozenset[int]:
    """The ids of the parameters that `fully_shard` has sharded, which must be gathered before they are used.

    A module that still holds its whole parameters after a forward pass is sharded first: what it holds meanwhile may
    have been rounded for the forward pass (`MixedPrecisionPolicy`).
    """
    found: set[int] = set()
    for module in model.modules():
        if "FSDPModule" in _kinds(module):
            reshard: Callable[[], None] = module.reshard  # type: ignore[assignment]
            reshard()
    for module in model.modules():
        if "FSDPModule" in _kinds(module):
            found |= {id(parameter) for parameter in module.parameters()}
    return frozenset(found)


def without_gathering(module: nn.Module) -> Iterator[tuple[Any, Any, Any, Any]]:
    """What to change in a module so that FSDP2 does not gather its parameters: `(container, key, original, changed)`.

    FSDP2 puts the sharded parameters' gathered values in their place in hooks around forward, and frees them before
    a second derivative can be taken. Without those hooks the module computes with what stands in it.
    """
    if "FSDPModule" not in _kinds(module):
        return
    for key in ("_forward_pre_hooks", "_forward_hooks"):
        hooks = module.__dict__[key]
        kept = {number: hook for number, hook in hooks.items() if not _of_fsdp(getattr(hook, "__module__", None))}
        yield module.__dict__, key, hooks, type(hooks)(kept)
    for name, value in list(module.__dict__.items()):
        if name.startswith("__composable_api_state_key"):  # leads to the gathered tensors, which are freed by now
            yield module.__dict__, name, value, type(value)()
        # A method that register_fsdp_forward_method has wrapped.
        if hasattr(value, "__wrapped__") and _of_fsdp(getattr(value, "__globals__", {}).get("__name__")):
            yield module.__dict__, name, value, value.__wrapped__


def _kinds(module: nn.Module) -> set[str]:
    return {kind.__name__ for kind in type(module).__mro__}


def _of_fsdp(name: str | None) -> bool:
    return (name or "").startswith("torch.distributed.fsdp")


def zeros(parameter: Tensor) -> Tensor:
    """A whole tensor of zeros in the shape of a parameter that may be spread."""
    return torch.zeros(parameter.shape, dtype=parameter.dtype, device=parameter.device)
