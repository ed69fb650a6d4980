"""Which trained parameters the optimiser holds, and which tensors the model uses without registering them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attnscope.errors import CaseError
from attnscope.lenses import Lens
from attnscope.lenses._batch import tensors
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class OptimizerCoverage(Lens):
    """The share of each block's trainable numbers that the optimiser holds: 1 everywhere.

    **Measures**: numbers of the block in the optimiser / numbers that require a gradient; 1 for frozen blocks,
    and everywhere when no optimiser is given (`optimizer` in the facts is then None). The facts list
    parameters that are left out (`missing`), frozen (`frozen`), held twice (`twice`) or not the model's
    (`foreign`: shapes of what the optimiser holds instead), how many steps it has counted (`steps`, and for
    those held twice and the median parameter: `steps_of`), and tensors that the loss is differentiated
    through although they are no registered parameter (`unregistered`: name, shape).

    **Reading it**: below 1 part of the block cannot train. `foreign` tensors are often the model's own
    parameters before it was moved or wrapped. An `unregistered` tensor gets a gradient and no update, is not
    saved and does not move with `.to(device)`.

    **Shapes**: (block,).

    **Cost**: one forward pass with a graph.

    **Reference**: the contracts of `torch.nn.Module.parameters` and `torch.optim.Optimizer`.
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("block",)
    needs: ClassVar[tuple[str, ...]] = ("optimizer",)

    def measure(self, probe: Probe) -> Reading:
        """Compares the model's parameters with the optimiser's and with the leaves of the graph."""
        named = dict(probe.model.named_parameters())
        own = {id(value) for value in named.values()}
        facts: dict[str, Any] = {
            "optimizer": None if probe.optimizer is None else type(probe.optimizer).__name__,
            "frozen": [name for name, value in named.items() if not value.requires_grad],
            "unregistered": _unregistered(probe),
            "steps": _steps(probe.optimizer),
            "steps_of": {},
            "missing": [],
            "twice": [],
            "foreign": [],
        }
        values = dict.fromkeys((block.name for block in probe.anatomy.blocks if block.slices), 1.0)
        if not values:
            return self.not_applicable("the model has no parameters")
        if probe.optimizer is not None:
            held = [value for group in probe.optimizer.param_groups for value in group["params"]]
            ids = [id(value) for value in held]
            names = {id(value): name for name, value in named.items()}
            facts["missing"] = [
                name for name, value in named.items() if value.requires_grad and id(value) not in set(ids)
            ]
            facts["twice"] = sorted({names[i] for i in ids if i in names and ids.count(i) > 1})
            facts["steps_of"] = _steps_of(probe.optimizer, {name: named[name] for name in facts["twice"]})
            facts["foreign"] = [list(value.shape) for value in held if id(value) not in own][:20]
            facts["n_foreign"] = sum(id(value) not in own for value in held)
            for block in probe.anatomy.blocks:
                pieces = [piece for piece in block.slices if named[piece.parameter].requires_grad]
                total = sum(piece.numel for piece in pieces)
                covered = sum(piece.numel for piece in pieces if id(named[piece.parameter]) in set(ids))
                if total:
                    values[block.name] = covered / total
        return self.reading(
            list(values.values()),
            coords={"block": tuple(values)},
            step=probe.step,
            facts=facts,
            note="" if probe.optimizer is not None else "no optimiser is given: only the model was looked at",
        )


def _steps(optimizer: torch.optim.Optimizer | None) -> int | None:
    """How many steps the optimiser has taken, where it counts them."""
    counts = _counts(optimizer)
    return max(counts.values()) if counts else None


def _steps_of(optimizer: torch.optim.Optimizer, chosen: dict[str, nn.Parameter]) -> dict[str, int]:
    """The steps counted for these parameters, and for the median one (`median`); empty when there are none."""
    counts = _counts(optimizer)
    if not chosen or not counts:
        return {}
    found = {name: counts[id(value)] for name, value in chosen.items() if id(value) in counts}
    return {**found, "median": sorted(counts.values())[len(counts) // 2]}


def _counts(optimizer: torch.optim.Optimizer | None) -> dict[int, int]:
    """Identity of a parameter -> the steps counted for it."""
    states = {} if optimizer is None else optimizer.state
    return {
        id(value): int(state["step"])
        for value, state in states.items()
        if isinstance(state, dict) and "step" in state
    }


def _unregistered(probe: Probe) -> list[dict[str, Any]]:
    """Leaves of the graph that require a gradient and are neither parameters nor of the batch."""
    with probe.evaluating() as model:
        try:
            loss = probe.loss_of(model, probe.batch)
        except CaseError:
            return []  # a model without a loss; its graph is not known
        known = {id(value) for value in model.parameters()}
        known |= {id(value) for value in tensors(probe.batch).values()}
        found = [leaf for leaf in _leaves(loss) if id(leaf) not in known]
        return [{"name": _name_of(model, leaf), "shape": list(leaf.shape)} for leaf in found]


def _leaves(loss: Tensor) -> Iterator[Tensor]:
    """The tensors at the ends of the autograd graph, once each."""
    seen: set[Any] = set()
    waiting = [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if isinstance(variable, Tensor):
            yield variable
        waiting += [following for following, _ in node.next_functions]


def _name_of(model: nn.Module, leaf: Tensor) -> str:
    """Where the tensor hangs: an attribute, an item of a list, or a parameter of an unregistered module."""

    def look(value: Any, name: str, depth: int) -> str:
        if value is leaf:
            return name
        if isinstance(value, nn.Module):
            held = next((below for below, item in value.named_parameters() if item is leaf), "")
            return f"{name}.{held}" if held else ""
        items: list[tuple[str, Any]] = []
        if depth and isinstance(value, list | tuple):
            items = [(f"{name}[{index}]", item) for index, item in enumerate(value)]
        elif depth and isinstance(value, dict):
            items = [(f"{name}[{key!r}]", item) for key, item in value.items()]
        return next((found for below, item in items if (found := look(item, below, depth - 1))), "")

    for path, module in model.named_modules():
        for attribute, value in module.__dict__.items():
            if attribute.startswith("_"):
                continue
            found = look(value, f"{path}.{attribute}".lstrip("."), 3)
            if found:
                return found
    return ""
