"""Blocks whose numbers look like nobody ever trained them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attnscope.anatomy.blocks import Block
from attnscope.lenses import Lens
from attnscope.lenses._parameters import named, part
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class InitialBlocks(Lens):
    """How far each block's weights are from a standard initialisation: small means untouched.

    **Measures** the Kolmogorov-Smirnov statistic sqrt(n) sup|F_n - F| of the block's matrix entries
    against the standard initialisation that fits best: uniform or Gaussian with the widths that PyTorch,
    Xavier, Kaiming, BERT and GPT use (unit 1). A uniform one is ruled out exactly when an entry lies beyond
    its bound. A vector that is constant reads 0. The worst parameter of a block gives its value.

    **Reading it** under 2.23 the entries cannot be told from that initialisation (level 1e-4). It is a fact,
    not a fault: an untrained model is small everywhere, and Gaussian blocks can move a little without any
    sign in their distribution. Small in one block while its neighbours are large: that block was not
    trained, or was initialised anew after loading weights.

    **Shapes** [block]. Facts: `fits`: the best-fitting initialisation per block; `initial`: names of
    blocks under the bound; `n_entries`: how many entries were compared.

    **Cost** one sort of at most `entries` numbers per block.

    **Reference** Massey 1951, The Kolmogorov-Smirnov Test for Goodness of Fit, JASA 46; the
    asymptotic level of x is 2 exp(-2 x^2).
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("block",)
    needs: ClassVar[tuple[str, ...]] = ("weights",)

    entries: int = 50_000
    bound: float = 2.23

    def measure(self, probe: Probe) -> Reading:
        """The distance of every block from a standard initialisation."""
        blocks = probe.anatomy.blocks
        if not blocks:
            return self.not_applicable("the model has no parameters")
        parameters = named(probe.model)
        values: list[float] = []
        fits: list[str] = []
        counts: list[int] = []
        broken = ""
        for block in blocks:
            value, fit, n = self._block(parameters, block)
            broken = broken or ("" if math.isfinite(value) else block.name)
            values.append(value)
            fits.append(fit)
            counts.append(n)
        names = tuple(block.name for block in blocks)
        initial = [name for name, value in zip(names, values, strict=True) if value < self.bound]
        return self.reading(
            values, coords={"block": names}, step=probe.step,
            note=f"{broken} holds numbers that are not finite" if broken else "",
            facts={"fits": fits, "initial": initial, "n_entries": counts},
        )

    def _block(self, parameters: Mapping[str, Tensor], block: Block) -> tuple[float, str, int]:
        """Statistic, name of the initialisation, entries compared; of the matrix that fits worst."""
        worst: tuple[float, str, int] | None = None
        for piece in block.slices:
            tensor = part(parameters, piece)
            if tensor.numel() == 0:
                continue
            largest = float(tensor.abs().max())
            if not math.isfinite(largest):
                return math.inf, "none", tensor.numel()
            flat = tensor.flatten()
            chosen = flat[:: max(1, math.ceil(flat.numel() / self.entries))].double().sort().values
            found = _vector(chosen) if len(piece.shape) < 2 else _best(chosen, piece.shape, largest)
            if worst is None or found[0] > worst[0]:
                worst = found
        return worst or (0.0, "empty", 0)


def _vector(entries: Tensor) -> tuple[float, str, int]:
    """A gain or bias: initialised to one constant, or (as in `nn.Linear`) to a uniform of unknown width."""
    n = entries.numel()
    if bool((entries == entries[0]).all()):
        return 0.0, f"constant {float(entries[0]):g}", n
    width = float(entries.abs().max()) * (n + 1) / n
    return _statistic(_uniform(entries, width)), "uniform", n


def _best(entries: Tensor, shape: tuple[int, ...], largest: float) -> tuple[float, str, int]:
    n = entries.numel()
    if bool((entries == entries[0]).all()):
        return 0.0, f"constant {float(entries[0]):g}", n
    best = (math.inf, "none", n)
    for name, cumulated in _candidates(entries, shape, largest):
        statistic = _statistic(cumulated)
        if statistic < best[0]:
            best = (statistic, name, n)
    return best


def _candidates(entries: Tensor, shape: tuple[int, ...], largest: float) -> list[tuple[str, Tensor]]:
    """The standard initialisations, each as its distribution function at the sorted entries."""
    rest = math.prod(shape[2:])
    fan_in, fan_out = shape[1] * rest, shape[0] * rest
    uniform = {
        "torch linear": 1 / math.sqrt(fan_in),
        "torch linear, transposed": 1 / math.sqrt(fan_out),
        "xavier uniform": math.sqrt(6 / (fan_in + fan_out)),
        "kaiming uniform": math.sqrt(6 / fan_in),
    }
    if fan_in == fan_out:  # nn.MultiheadAttention draws three square matrices as one
        uniform["xavier uniform, fused"] = math.sqrt(6 / (fan_in + 3 * fan_out))
    normal = {
        "normal 0.02": 0.02,
        "normal 1": 1.0,
        "xavier normal": math.sqrt(2 / (fan_in + fan_out)),
        "kaiming normal": math.sqrt(2 / fan_in),
        "normal 1/sqrt(fan_in)": 1 / math.sqrt(fan_in),
        "normal 1/sqrt(fan_out)": 1 / math.sqrt(fan_out),
    }
    # GPT-2 divides the initialisation of residual projections by sqrt(2 layers).
    for n_layers in (1, 2, 3, 4, 6, 8, 12, 24, 36, 48):
        normal[f"normal 0.02/sqrt({2 * n_layers})"] = 0.02 / math.sqrt(2 * n_layers)
    return [
        *(
            (name, _uniform(entries, width)) for name, width in uniform.items()
            if largest <= width * (1 + 1e-3)  # half-precision copies round up
        ),
        *((name, torch.special.ndtr(entries / width)) for name, width in normal.items()),
    ]


def _uniform(entries: Tensor, width: float) -> Tensor:
    return ((entries / width + 1) / 2).clamp(0, 1)


def _statistic(cumulated: Tensor) -> float:
    """sqrt(n) times the largest gap between the empirical distribution and the given one."""
    n = cumulated.numel()
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    gap = torch.maximum((steps[1:] - cumulated).max(), (cumulated - steps[:-1]).max())
    return float(gap) * math.sqrt(n)
