"""What each normalisation gets, beside what it takes it to be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from attnscope.lenses import Lens
from attnscope.probe import Probe
from attnscope.readings import Reading

_EPSILONS = ("eps", "variance_epsilon", "epsilon")  # what modules that normalise call it


@dataclass(frozen=True)
class NormInputs(Lens):
    """How far the running statistics of each batch normalisation are from its input.

    **Measures**: in eval mode, over all batches, the divergence (Kullback-Leibler, between two normal distributions)
    of each channel's input from the running mean and variance that stand for it, averaged over channels; NaN for
    normalisations without running statistics. The facts hold, per block: `running` (the divergence from them,
    `start`: from mean 0 and variance 1, `momentum`, `updates`: how many forward passes were counted, `untouched`:
    whether they are exactly 0 and 1, `examples`), and `epsilon` (the number, and `share`: the median of
    epsilon / (variance + epsilon) over what is normalised).

    **Reading it**: a few hundredths of a nat in a trained model; 1 means that eval mode computes another function than
    train mode. An epsilon with a share near 1 leaves its input as it is.

    **Shapes**: (block,).

    **Cost**: one forward pass per batch.

    **Reference**: Ioffe and Szegedy, 2015, arXiv:1502.03167; Kullback and Leibler, 1951.
    """

    unit: ClassVar[str] = "nats"
    dims: ClassVar[tuple[str, ...]] = ("block",)

    def measure(self, probe: Probe) -> Reading:
        """Watches the input of every normalisation."""
        with probe.evaluating() as model, torch.no_grad():
            norms = _norms(model, probe)
            if not norms:
                return self.not_applicable("no module of the model that normalises was found")
            seen = {name: _Seen(module) for name, module in norms.items()}
            handles = [module.register_forward_pre_hook(seen[name]) for name, module in norms.items()]
            try:
                for batch in probe.batches:
                    probe.run(model, batch)
            finally:
                for handle in handles:
                    handle.remove()
            running = {name: told for name, item in seen.items() if (told := item.beside_running()) is not None}
            epsilon = {name: told for name, item in seen.items() if (told := item.beside_epsilon()) is not None}
        if not running and not epsilon:
            return self.not_applicable("no normalisation of the model was called with a tensor of numbers")
        values = [float(running[name]["running"]) if name in running else float("nan") for name in seen]
        return Reading(
            lens=self.name, values=values, dims=self.dims, unit=self.unit,  # type: ignore[arg-type]
            coords={"block": tuple(seen)}, step=probe.step, facts={"running": running, "epsilon": epsilon},
        )


def _norms(model: nn.Module, probe: Probe) -> dict[str, nn.Module]:
    """Block name -> the module that owns its parameters and normalises."""
    found: dict[str, nn.Module] = {}
    modules = dict(model.named_modules())
    for block in probe.anatomy.blocks:
        for piece in block.slices[:1]:
            module = modules.get(piece.parameter.rpartition(".")[0])
            if module is not None and _epsilon(module) is not None:
                found[block.name] = module
    return found


def _epsilon(module: nn.Module) -> float | None:
    values = (getattr(module, name, None) for name in _EPSILONS)
    return next((float(value) for value in values if isinstance(value, float)), None)


@dataclass
class _Seen:
    """Sums over what one normalisation is given."""

    module: nn.Module
    count: int = 0
    examples: int = 0
    total: Tensor | None = None
    squares: Tensor | None = None
    shares: list[float] = field(default_factory=list)

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """A forward pre-hook."""
        given = args[0] if args and isinstance(args[0], Tensor) else None
        if given is None or not given.is_floating_point() or given.ndim < 2 or given.numel() == 0:
            return
        if isinstance(module, _BatchNorm):
            self._add(given.double())
        else:
            size = _sizes(module, given.double())
            epsilon = _epsilon(module)
            if size is not None and epsilon is not None:
                share = (epsilon / (size + epsilon)).median()
                self.shares.append(float(share))

    def _add(self, given: Tensor) -> None:
        channels = given.transpose(0, 1).flatten(1)
        self.examples += given.shape[0]
        self.count += channels.shape[1]
        total, squares = channels.sum(1), channels.square().sum(1)
        self.total = total if self.total is None else self.total + total
        self.squares = squares if self.squares is None else self.squares + squares

    def beside_running(self) -> dict[str, Any] | None:
        """The running statistics beside the input's; None where there are none."""
        mean, variance = (getattr(self.module, name, None) for name in ("running_mean", "running_var"))
        if mean is None or variance is None or self.total is None or self.squares is None or self.count < 2:
            return None
        seen_mean = self.total / self.count
        seen_variance = (self.squares / self.count - seen_mean.square()).clamp_min(0)
        epsilon = _epsilon(self.module) or 0.0
        own = (mean.double(), variance.double() + epsilon)
        seen = (seen_mean, seen_variance + epsilon)
        start = (torch.zeros_like(own[0]), torch.ones_like(own[1]) + epsilon)
        momentum = getattr(self.module, "momentum", None)
        counted = getattr(self.module, "num_batches_tracked", None)
        return {
            "running": _divergence(seen, own),
            "start": _divergence(seen, start),
            "momentum": None if momentum is None else float(momentum),
            "updates": None if counted is None else int(counted),
            "untouched": bool((mean == 0).all()) and bool((variance == 1).all()),
            "examples": self.examples,
        }

    def beside_epsilon(self) -> dict[str, float] | None:
        """The epsilon beside the variance that it is added to; None where it is not known."""
        epsilon = _epsilon(self.module)
        if epsilon is None or not self.shares or not all(map(math.isfinite, self.shares)):
            return None
        return {"epsilon": epsilon, "share": sorted(self.shares)[len(self.shares) // 2]}


def _divergence(seen: tuple[Tensor, Tensor], taken: tuple[Tensor, Tensor]) -> float:
    """Mean over channels of KL(N(seen) || N(taken)), in nats."""
    (mean, variance), (other_mean, other_variance) = seen, taken
    ratio = variance / other_variance
    return float((0.5 * (ratio - 1 - ratio.log() + (mean - other_mean).square() / other_variance)).mean())


def _sizes(module: nn.Module, given: Tensor) -> Tensor | None:
    """What epsilon is added to: the variance (or mean square) of each thing that is normalised."""
    if isinstance(module, nn.GroupNorm):
        if given.shape[1] % module.num_groups:
            return None
        return given.reshape(given.shape[0], module.num_groups, -1).var(-1, unbiased=False)
    shape = getattr(module, "normalized_shape", None)
    dims = tuple(range(-len(shape), 0)) if isinstance(shape, tuple) else (-1,)
    if len(dims) > given.ndim:
        return None
    if isinstance(module, nn.LayerNorm):
        return given.var(dims, unbiased=False)
    centred: Mapping[str, Any] = vars(module)
    if isinstance(module, nn.RMSNorm) or "variance_epsilon" in centred:  # as Llama's and T5's are written
        return given.square().mean(dims)
    return None
