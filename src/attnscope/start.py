"""The parameters before training: kept from a model, read from a file, and named as the model names them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from attnscope.errors import CaseError

Start = Mapping[str, Tensor]
_WRAPPERS = ("module.", "_orig_mod.", "base_model.model.")  # what parallel, compiled and adapted models put before


def start_of(model: nn.Module) -> Start:
    """A read-only copy of every parameter as it is now, on the CPU."""
    return MappingProxyType({
        name: parameter.detach().to("cpu", copy=True) for name, parameter in model.named_parameters()
    })


def save_start(start: Start, path: str | Path) -> Path:
    """Writes the parameters as a .safetensors file, whole or not at all.

    Returns:
        the path.
    """
    target = Path(path)
    part = target.with_name(target.name + ".part")
    save_file({name: tensor.detach().contiguous().cpu() for name, tensor in start.items()}, part)
    part.replace(target)
    return target


def read_start(given: Any, model: nn.Module) -> Start:
    """The start state that a user gives, with the model's own parameter names.

    Args:
        given: a mapping of parameter name -> tensor (a state dict, say), or the path of a .safetensors file.
        model: whose start it is.

    Returns:
        read-only; names that are no parameters of the model (buffers) are left out.

    Raises:
        CaseError: the file cannot be read, a value is no tensor, no name fits, or a shape does not.
    """
    held = _read_file(Path(given)) if isinstance(given, str | Path) else given
    if not isinstance(held, Mapping):
        raise CaseError(
            f"Case.start must map parameter names to tensors, or be a .safetensors path, found {type(held).__name__}"
        )
    own = {_bare(name): (name, parameter) for name, parameter in model.named_parameters()}
    found: dict[str, Tensor] = {}
    for name, tensor in held.items():
        if not isinstance(tensor, Tensor):
            raise CaseError(f"Case.start[{name!r}] must be a tensor, found {type(tensor).__name__}")
        place = own.get(_bare(str(name)))
        if place is None:
            continue
        if place[1].shape != tensor.shape:
            raise CaseError(
                f"Case.start[{name!r}] has shape {tuple(tensor.shape)}, the parameter {tuple(place[1].shape)}; "
                "it is the start of another model"
            )
        found[place[0]] = tensor.detach()
    if not found:
        raise CaseError(
            f"Case.start names no parameter of {type(model).__name__}: it holds {', '.join(map(str, held))[:80]!r}, "
            f"the model {', '.join(name for name, _ in own.values())[:80]!r}"
        )
    return MappingProxyType(found)


def inside(start: Start | None, wrapped: nn.Module, model: nn.Module) -> Start | None:
    """A start by the names of the model inside its wrappers."""
    if start is None or wrapped is model:
        return start
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return MappingProxyType({
        names[id(parameter)]: start[name]
        for name, parameter in wrapped.named_parameters()
        if name in start and id(parameter) in names
    })


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        found: dict[str, torch.Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CaseError(
            f"Case.start: cannot read {path} as safetensors ({error}); "
            "write it with safetensors.torch.save_file(model.state_dict(), path)"
        ) from error
    return found


def _bare(name: str) -> str:
    """The name without what wrappers put before it."""
    for prefix in _WRAPPERS:
        if name.startswith(prefix):
            return _bare(name.removeprefix(prefix))
    return name
