"""Takes wrappers off a model: compiled, parallel, adapted or Lightning modules all hide a plain one."""

from __future__ import annotations

from typing import Any

from torch import nn

# Class name -> attribute (or method) that gives what is wrapped. Names, so that no wrapper is imported.
_INSIDE = {
    "OptimizedModule": "_orig_mod",
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "FullyShardedDataParallel": "module",
    "DeepSpeedEngine": "module",
}


def unwrapped(model: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """The model inside its wrappers, and the class names of the wrappers, outermost first."""
    wrappers: list[str] = []
    while True:
        inner = _inside(model)
        if inner is None:
            return model, tuple(wrappers)
        wrappers.append(type(model).__name__)
        model = inner


def _inside(model: nn.Module) -> nn.Module | None:
    for kind in type(model).__mro__:
        attribute = _INSIDE.get(kind.__name__)
        if attribute is not None:
            inner: Any = getattr(model, attribute, None)
            return inner if isinstance(inner, nn.Module) else None
    names = {kind.__name__ for kind in type(model).__mro__}
    if "PeftModel" in names:
        inner = model.get_base_model()  # type: ignore[operator]
        return inner if isinstance(inner, nn.Module) else None
    return None
