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
    """Every adapter: two factors named so (`lora`), and the weight nearest to them that their shapes fit."""
    matrices = {name: tuple(value.shape) for name, value in named(model).items() if value.ndim == 2}
    factors = [name for name in matrices if "lora" in name.lower()]
    found = []
    for a in factors:
        for b in factors:
            if a == b or matrices[b][1] != matrices[a][0] or not _same_adapter(a, b):
                continue
            sides = (matrices[b][0], matrices[a][1])
            fitting = [name for name in matrices if name not in factors and matrices[name] in (sides, sides[::-1])]
            if fitting:
                found.append(LowRank(max(fitting, key=lambda name: _shared(name, a)), a, b))
    return sorted(found, key=lambda pair: list(matrices).index(pair.weight))


def _shared(first: str, second: str) -> int:
    """How many leading parts of two dotted names are the same."""
    pairs = zip(first.split("."), second.split("."), strict=False)
    return next((count for count, (x, y) in enumerate(pairs) if x != y), 0)


def _same_adapter(a: str, b: str) -> bool:
    """`lora_A.x` and `lora_B.x` belong together, in this order."""
    return "lora_a" in a.lower() and a.lower().replace("lora_a", "lora_b") == b.lower()


def effective_weights(
    model: nn.Module, gradients: Mapping[str, Tensor | None], held: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Parameter name -> what the forward pass multiplies with: adapters that are active are added in.

    The scale s follows from the gradients themselves: dL/dB = s dL/dW A^T.

    Args:
        model: as it is now.
        gradients: by parameter name, as it is now.
        held: the numbers of another moment (the start), whose effective weights are wanted; None for now.
    """
    weights = named(model)
    found = dict(weights if held is None else held)
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
        if not {pair.weight, pair.a, pair.b} <= set(found):
            continue
        change = along / size * (found[pair.b].double() @ found[pair.a].double())
        weight = found[pair.weight]
        found[pair.weight] = weight.double() + (change.T if transposed else change).to(weight.device)
    return found


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
