"""Changes what a model stores in its key/value cache, after each call; the call itself stays as it is.

Two forms of cache are known: a sequence of one (keys, values) pair per layer, and an object whose `layers` each hold
`keys` and `values`. Both are `[batch, head, position, width]`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from attnscope.case import Case

Pair = tuple[Tensor, Tensor]
Tell = Callable[[int, Tensor, Tensor, int], Pair]  # layer, keys, values, entries before the call -> what is stored
NAMES = ("past", "cache", "mems")
SWITCH = "use_cache"


def cache_obstacle(case: Case) -> str:
    """Why the case's model cannot be decoded with a cache that is understood, or an empty string."""
    held, _ = _first_cache(case)
    return "" if held else "the model's forward takes no key/value cache of a known form that its output gives"


def retell_cache(case: Case, tell: Tell) -> None:
    """From now on the cache that the model gives holds what `tell(layer, keys, values, n_before)` says.

    The model gets a class of the same name with another `forward`, so copies of the model keep the change.
    """
    _, name = _first_cache(case)
    original = type(case.model)
    signature = inspect.signature(original.forward)

    @functools.wraps(original.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        given = signature.bind_partial(self, *args, **kwargs).arguments
        before = pairs_of(given.get(name) or given.get("kwargs", {}).get(name))
        n_before = before[0][0].shape[-2] if before else 0
        output = original.forward(self, *args, **kwargs)
        pairs = pairs_of(_held(output, name))
        told = [tell(layer, keys, values, n_before) for layer, (keys, values) in enumerate(pairs)]
        return _with(output, name, told) if pairs else output

    body = {"forward": forward, "__module__": original.__module__, "__qualname__": original.__qualname__}
    case.model.__class__ = type(original.__name__, (original,), body)


def retell_decoded(case: Case, layer: int, change: Callable[[Tensor, Tensor, int], Pair]) -> None:
    """As `retell_cache`, for one layer and only where a call adds to a cache that holds something already."""

    def tell(place: int, keys: Tensor, values: Tensor, n_before: int) -> Pair:
        adds = place == layer and 0 < n_before < keys.shape[-2]
        return change(keys, values, n_before) if adds else (keys, values)

    retell_cache(case, tell)


def pairs_of(cache: Any) -> list[Pair]:
    """(keys, values) of each layer; empty when the cache has none or another form."""
    layers = getattr(cache, "layers", cache)
    if not isinstance(layers, list | tuple):
        return []
    found = []
    for layer in layers:
        pair = layer if isinstance(layer, list | tuple) else (_part(layer, "keys"), _part(layer, "values"))
        if len(pair) != 2 or not all(isinstance(part, Tensor) and part.ndim == 4 for part in pair):
            return []
        found.append((pair[0], pair[1]))
    return found


def _part(layer: Any, name: str) -> Any:
    return getattr(layer, name, None)


def _held(output: Any, name: str) -> Any:
    """The cache in an output: under its name, or what follows the logits in a plain pair."""
    if isinstance(output, Mapping):
        return output.get(name)
    if isinstance(output, tuple) and len(output) == 2 and not hasattr(output, "_fields"):
        return output[1]
    return getattr(output, name, None)


def _with(output: Any, name: str, pairs: list[Pair]) -> Any:
    """The output with other entries in its cache."""
    cache = _held(output, name)
    layers = getattr(cache, "layers", None)
    if layers is not None:
        for layer, (keys, values) in zip(layers, pairs, strict=True):
            layer.keys, layer.values = keys, values
        return output
    if isinstance(output, tuple) and not hasattr(output, "_fields"):
        return (output[0], type(cache)(pairs))
    output[name] = type(cache)(pairs)
    return output


def _first_cache(case: Case) -> tuple[list[Pair], str]:
    """The cache after one pass over the first batch, and its name among the model's arguments."""
    batch = next(iter(case.batches))
    inputs = batch[0] if isinstance(batch, list | tuple) and len(batch) == 2 else batch
    accepted = inspect.signature(case.model.forward).parameters
    if isinstance(inputs, Tensor):
        inputs = {next(iter(accepted), ""): inputs}
    if not isinstance(inputs, Mapping):
        return [], ""
    given = {key: value for key, value in inputs.items() if "label" not in str(key)}
    if SWITCH in accepted:
        given[SWITCH] = True
    was_training = case.model.training
    case.model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng():
            output = case.model(**given)
    finally:
        case.model.train(was_training)
    for name in accepted:
        if any(word in name for word in NAMES) and name != SWITCH:
            pairs = pairs_of(_held(output, name))
            if pairs:
                return pairs, name
    return [], ""
