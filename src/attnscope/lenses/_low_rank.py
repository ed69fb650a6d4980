"""Low-rank adapters: a weight W that is used as W + s B A, found by shapes and proved by gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attnscope.lenses._parameters import named

_PROOF = 1 - 1e-4  # cosine: two directions that are the same up to the rounding of float32


@dataclass(frozen=True)
class LowRank:
    """An adapter of one weight: B [out, rank] @ A [rank, in], times a scale that the gradients tell."""

    weight: str
    a: str
    b: str


def low_rank_pairs(model: nn.Module) -> list[LowRank]:
    """Every weight with factors beside it whose shapes make an adapter, and whose names say so."""
    parameters = {name: value for name, value in named(model).items() if value.ndim == 2}
    found = []
    for name, weight in parameters.items():
        if weight.ndim != 2:
            continue
        for prefix in _prefixes(name):
            near = [
                other for other in parameters if other != name and other.startswith(prefix) and "lora" in other.lower()
            ]
            pairs = _pairs(name, parameters, near)
            if pairs:
                found += pairs
                break
    return found


def _prefixes(name: str) -> list[str]:
    """Where factors of a weight are looked for: in its own module, then in the one that holds that."""
    owner = name.rpartition(".")[0]
    return [f"{owner}." if owner else "", *([f"{owner.rpartition('.')[0]}."] if "." in owner else [])]


def _pairs(name: str, parameters: Mapping[str, Tensor], near: list[str]) -> list[LowRank]:
    """Pairs (A, B) of one adapter: A [rank, in], B [out, rank]; either layout of the weight."""
    found = []
    for sides in (parameters[name].shape, parameters[name].shape[::-1]):
        n_out, n_in = sides
        for a in near:
            rank = parameters[a].shape[0]
            if parameters[a].shape[1] != n_in or rank > min(n_in, n_out) or "b" in a.lower().split("lora_")[-1][:1]:
                continue
            found += [
                LowRank(name, a, b)
                for b in near
                if b != a and tuple(parameters[b].shape) == (n_out, rank) and _same_adapter(a, b)
            ]
        if found:
            break
    return found


def _same_adapter(a: str, b: str) -> bool:
    """`lora_A.x` and `lora_B.x` belong together."""
    return a.lower().replace("lora_a", "lora_") == b.lower().replace("lora_b", "lora_")


def effective_weights(model: nn.Module, gradients: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
    """Parameter name -> what the forward pass multiplies with: adapters that are active are added in.

    The scale s follows from the gradients themselves: dL/dB = s dL/dW A^T.
    """
    weights = named(model)
    for pair in low_rank_pairs(model):
        gradient, of_b = gradients.get(pair.weight), gradients.get(pair.b)
        if gradient is None or of_b is None:
            continue
        a, b = weights[pair.a].double(), weights[pair.b].double()
        whole = gradient.detach().double()
        transposed = whole.shape != (b.shape[0], a.shape[1])
        expected = (whole.T if transposed else whole) @ a.T
        size = float((expected * expected).sum())
        along = float((expected * of_b.double()).sum())
        if size == 0.0 or abs(along) < _PROOF * size**0.5 * float(of_b.double().norm()):
            continue
        change = along / size * (b @ a)
        weight = weights[pair.weight]
        weights[pair.weight] = weight.double() + (change.T if transposed else change).to(weight.device)
    return weights


def products(weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor], pair: LowRank) -> tuple[Tensor, Tensor]:
    """Both sides of B^T dL/dB = dL/dA A^T."""
    a, b = weights[pair.a].double(), weights[pair.b].double()
    return b.T @ gradients[pair.b].double(), gradients[pair.a].double() @ a.T


def zeros_where_unreached(weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
    """Every parameter's gradient, with zeros where no path leads."""
    return {
        name: torch.zeros_like(weight) if (found := gradients.get(name)) is None else found.detach()
        for name, weight in weights.items()
    }
