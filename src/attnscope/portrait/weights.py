"""Puts a checkpoint's tensors into a model, if all of them fit. Only safetensors: other formats can run code."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from attnscope.errors import CaseError

Shapes = Mapping[str, tuple[int, ...]]


def check_fits(path: Path, model: nn.Module) -> None:
    """Reads the file's names and shapes, no tensor.

    Raises:
        CaseError: it is no safetensors file, or a tensor is missing, of another shape or left over; the first of
            the model's is named.
    """
    found = _shapes(path)
    own = {name: tensor for name, tensor in model.state_dict(keep_vars=True).items() if isinstance(tensor, Tensor)}
    present = {_place(tensor) for name, tensor in own.items() if name in found}
    for name, tensor in own.items():
        if name not in found:
            if _place(tensor) in present:  # tied: the file holds it under another name
                continue
            raise CaseError(f"{path} has no tensor {name!r}, which the model has{_hint(name, found)}")
        if not is_lazy(tensor) and found[name] != tuple(tensor.shape):
            raise CaseError(
                f"{path}: tensor {name!r} has shape {found[name]}, the model's has {tuple(tensor.shape)}; the "
                "factory must make the model that the checkpoint was saved from"
            )
    for name in found:
        if name not in own:
            raise CaseError(f"{path} holds a tensor {name!r}, which the model does not have{_hint(name, own)}")


def load_weights(path: Path, model: nn.Module) -> None:
    """Gives the model the checkpoint's tensors, in the model's own precision.

    Raises:
        CaseError: as `check_fits`.
    """
    check_fits(path, model)
    with torch.no_grad():
        model.load_state_dict(load_file(path), strict=False)  # what is tied is there under another name


def _shapes(path: Path) -> Shapes:
    if path.suffix != ".safetensors":
        raise CaseError(
            f"{path} is not a .safetensors file; others can run code when they are read, so they are not. Save with "
            "safetensors.torch.save_model(model, path)"
        )
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            return {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except (OSError, SafetensorError) as error:
        raise CaseError(f"{path} cannot be read as safetensors: {error}") from error


def _place(tensor: Tensor) -> tuple[int, int]:
    """The same for tied tensors only, and never for empty or unbuilt ones."""
    empty = is_lazy(tensor) or tensor.numel() == 0
    return (id(tensor), -1) if empty else (tensor.untyped_storage().data_ptr(), int(tensor.storage_offset()))


def _hint(name: str, others: Mapping[str, object]) -> str:
    """A name that differs only by what a wrapper puts before it, or a near one."""
    for other in others:
        if other.endswith(f".{name}") or name.endswith(f".{other}"):
            return f"; there is {other!r}: one of the two was saved inside a wrapper"
    near = difflib.get_close_matches(name, list(others), 1)
    return f"; the nearest name is {near[0]!r}" if near else ""
