"""Finds what queries and keys of a cross-attention are made from, and changes it where it is handed over.

A module that is called with both sources (the attention itself, or one around it) is the place where people
exchange them; a hook on it sees them as its arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attnscope.anatomy.blocks import Anatomy, Attention, Kind
from attnscope.case import Case, default_forward, default_loss
from attnscope.faults import copy_of
from attnscope.faults._parameters import role_block
from attnscope.faults._projections import owner_of, run_quietly

Place = int | str  # a positional argument or a keyword
Both = tuple[Any, Any]


@dataclass(frozen=True)
class Handover:
    """Where both sources enter: the module's path and which argument is which."""

    module: str
    asking: Place
    asked: Place


@dataclass
class SourcesChanged:
    """A forward pre-hook: the module gets other sources for queries and for keys."""

    asking: Place
    asked: Place
    change: Callable[[Tensor, Tensor], Both]

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with both sources changed."""
        given = _given(args, kwargs)
        given[self.asking], given[self.asked] = self.change(given[self.asking], given[self.asked])
        return tuple(given[place] for place in range(len(args))), {name: given[name] for name in kwargs}


def change_sources(case: Case, anatomy: Anatomy, layer: int, change: Callable[[Tensor, Tensor], Both]) -> None:
    """From now on the attention is handed `change(asking, asked)`."""
    found = handover_of(case, anatomy, layer)
    assert found is not None  # obstacle_of_sources was empty
    hook = SourcesChanged(found.asking, found.asked, change)
    case.model.get_submodule(found.module).register_forward_pre_hook(hook, with_kwargs=True)


def obstacle_of_sources(case: Case, anatomy: Anatomy, attention: Attention, *, same_shape: bool = True) -> str:
    """Why the sources of an attention cannot be changed, or an empty string."""
    if attention.kind != Kind.CROSS:
        return "queries and keys of this attention come from one source"
    found = handover_of(case, anatomy, attention.layer, same_shape=same_shape)
    return "" if found else "no module of the model is handed both sources of this attention, alike in shape"


def handover_of(case: Case, anatomy: Anatomy, layer: int, *, same_shape: bool = True) -> Handover | None:
    """The innermost module that is called with both sources; None when none is found."""
    attention = anatomy.attentions[layer]
    owners = [owner_of(case.model, anatomy, role_block(attention, role)) for role in ("query", "key")]
    if owners[0] is None or owners[1] is None:
        return None
    taken: dict[int, Tensor] = {}
    handed: dict[str, dict[Place, Tensor]] = {}
    handles = []

    def remember(path: str, module: nn.Module) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            tensors = {place: each for place, each in _given(args, kwargs).items() if isinstance(each, Tensor)}
            handed.setdefault(path, tensors)
            if tensors:
                taken.setdefault(id(module), next(iter(tensors.values())))

        return module.register_forward_pre_hook(hook, with_kwargs=True)

    for path, module in case.model.named_modules():
        handles.append(remember(path, module))
    try:
        run_quietly(case)
    finally:
        for handle in handles:
            handle.remove()
    asking, asked = (taken.get(id(owner)) for owner in owners)
    if asking is None or asked is None or (same_shape and asking.shape != asked.shape):
        return None
    return _innermost(handed, asking, asked)


def _innermost(handed: dict[str, dict[Place, Tensor]], asking: Tensor, asked: Tensor) -> Handover | None:
    for path in sorted(handed, key=lambda each: -len(each)):
        mine = [place for place, each in handed[path].items() if each is asking]
        other = [place for place, each in handed[path].items() if each is asked]
        if mine and other and asking is not asked:
            return Handover(path, mine[0], other[0])
    return None


def _given(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[Place, Any]:
    given: dict[Place, Any] = dict(enumerate(args))
    given.update(kwargs)
    return given


def blocks_of_asked(case: Case, anatomy: Anatomy, layer: int) -> tuple[str, ...]:
    """The blocks that only the keys and values of an attention depend on: the encoder of the stream it looks at.

    They are those whose gradient is lost when that stream is detached in a copy of the case.
    """
    cut = copy_of(case)
    change_sources(cut, anatomy, layer, lambda asking, asked: (asking, asked.detach()))
    before, after = _gradients(case, case.model), _gradients(cut, cut.model)
    lost = {name for name, found in before.items() if found and not after[name]}
    return tuple(block.name for block in anatomy.blocks if all(piece.parameter in lost for piece in block.slices))


def _gradients(case: Case, model: nn.Module) -> dict[str, bool]:
    """Which parameters of a model get a gradient other than zero from the first batch."""
    batch = next(iter(case.batches))
    was_training = model.training
    model.eval()
    named = {name: each for name, each in model.named_parameters() if each.requires_grad}
    with torch.random.fork_rng(), torch.enable_grad():
        loss = (case.loss or default_loss)((case.forward or default_forward)(model, batch), batch)
        found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    model.train(was_training)
    return {
        name: each is not None and bool(each.any()) for name, each in zip(named, found, strict=True)
    }
