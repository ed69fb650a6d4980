"""Which modules are still in training mode after `model.eval()`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from attnscope.lenses import Lens
from attnscope.probe import Probe
from attnscope.readings import Reading

_BATCH_STATISTICS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


@dataclass(frozen=True)
class ModeFlags(Lens):
    """How many modules are still in training mode after `model.eval()`: none, in a sound model.

    **Measures**: the number of modules whose `training` flag is True after `model.eval()`, of those that
    behave otherwise in training (dropout, batch normalisation, recurrent dropout), and of batch
    normalisations that use the batch's statistics in evaluation too. Modules that hang in plain lists, which
    `eval()` does not reach, are counted. The facts name them.

    **Reading it**: zeros. `training` alone above zero is untidy; `active` above zero changes the output.

    **Shapes**: (kind,) with kinds `training`, `active`, `batch_statistics`, `unregistered`.

    **Cost**: none.

    **Reference**: the contract of `torch.nn.Module.eval`.
    """

    unit: ClassVar[str] = "modules"
    dims: ClassVar[tuple[str, ...]] = ("kind",)

    def measure(self, probe: Probe) -> Reading:
        """Calls `eval()` and reads the flags; they are put back."""
        with probe.evaluating() as model:
            registered = dict(model.named_modules())
            hidden = _unregistered(registered)
            every = {**registered, **hidden}
            training = [name for name, module in every.items() if module.training]
            active = [_shown(name, every[name]) for name in training if _behaves(every[name])]
            batch = [
                _shown(name, module)
                for name, module in every.items()
                if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None
            ]
        return self.reading(
            [len(training), len(active), len(batch), len(hidden)],
            coords={"kind": ("training", "active", "batch_statistics", "unregistered")},
            step=probe.step,
            facts={
                "training": training,
                "active": active,
                "batch_statistics": batch,
                "unregistered": [_shown(name, module) for name, module in hidden.items()],
            },
        )


def _unregistered(registered: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """Modules that hang in plain lists, tuples or dictionaries of a registered module."""
    known = {id(module) for module in registered.values()}
    found: dict[str, nn.Module] = {}

    def visit(value: Any, name: str, depth: int) -> None:
        if isinstance(value, nn.Module):
            for below, module in value.named_modules():
                if id(module) not in known:
                    known.add(id(module))
                    found[f"{name}.{below}".rstrip(".")] = module
        elif depth and isinstance(value, list | tuple):
            for index, item in enumerate(value):
                visit(item, f"{name}[{index}]", depth - 1)
        elif depth and isinstance(value, dict):
            for key, item in value.items():
                visit(item, f"{name}[{key!r}]", depth - 1)

    for name, module in registered.items():
        for attribute, value in module.__dict__.items():
            if not attribute.startswith("_"):
                visit(value, f"{name}.{attribute}".lstrip("."), 3)
    return found


def _behaves(module: nn.Module) -> bool:
    """Whether the module does something else in training than in evaluation."""
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p > 0
    if isinstance(module, _BATCH_STATISTICS):
        return bool(module.track_running_stats)
    if isinstance(module, nn.RNNBase):
        return module.dropout > 0
    return isinstance(module, nn.MultiheadAttention) and module.dropout > 0


def _shown(name: str, module: nn.Module) -> dict[str, Any]:
    rate = getattr(module, "p", getattr(module, "dropout", None))
    return {
        "module": name,
        "class": type(module).__name__,
        "rate": float(rate) if isinstance(rate, int | float) else None,
    }
