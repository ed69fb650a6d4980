"""How far a decode with a cache departs from a fresh run over the whole sequence."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attnscope.anatomy.blocks import Anatomy
from attnscope.lenses import STANDARD, Lens
from attnscope.lenses._movement import change, main_output, tolerance
from attnscope.lenses._sequence import Sequence, predicted_sequence
from attnscope.probe import Probe
from attnscope.readings import Reading

_ROUNDINGS = 4096  # other kernels and other orders of summation run on one token than on many


@dataclass(frozen=True)
class CachedDecode(Lens):
    """How far decoding token by token with a cache departs from one run over the whole sequence.

    **Measures**: per position, the largest difference between the logits of the cached decode and those of a
    fresh run, relative to the largest logit. A model takes part when its output holds a cache under a name
    (such as `past_key_values`) that its `forward` accepts, or is a pair of logits and cache.

    **Reading it**: rounding only (`tolerance` in the facts). A departure from position 1 on: wrong positions
    or a stale cache; from a later position on (`first_position`): the cache is cut or overwritten there. The
    first attention whose own output departs (`first_layer`) is where it begins: those before it see the same.

    **Shapes**: (token,).

    **Cost**: one forward pass per position, on at most `max_tokens` positions.

    **Reference**: an identity of causal decoding; for the faults see Jahan and Rahman, 2025, arXiv:2508.04925.
    """

    max_tokens: int = 16

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("token",)
    effort: ClassVar[str] = STANDARD

    def measure(self, probe: Probe) -> Reading:
        """Decodes step by step and compares each step with the fresh run."""
        sequence = predicted_sequence(probe)
        inputs = _keywords(probe.model, probe.batch)
        if sequence is None or sequence.batch_axis != 0 or sequence.real.ndim != 2 or inputs is None:
            return self.not_applicable("the batch does not name a flat sequence of tokens as a keyword")
        key = _key(sequence, inputs)
        if key is None:
            return self.not_applicable("the tokens are not a keyword of the model's forward")
        with probe.evaluating() as model, torch.no_grad():
            cache = _cache_name(model, inputs)
            if cache is None:
                return self.not_applicable("the model's output holds no cache that its forward accepts")
            length = min(self.max_tokens, int(sequence.real.long().cumprod(-1).sum(-1).min()))
            if length < 2:
                return self.not_applicable("the sequences start with padding or hold one token")
            with _Layers.of(model, probe.anatomy) as layers:
                fresh, cached = _both(model, inputs, key, cache, length, layers)
        if fresh is None or cached is None or fresh.shape != cached.shape:
            return self.not_applicable("the model's output has no logits per position")
        apart = change(fresh, cached).transpose(0, 1).flatten(1).amax(1)
        values = apart / float(fresh.abs().max().double().clamp(min=torch.finfo(torch.float64).tiny))
        bound = tolerance(fresh.dtype, _ROUNDINGS)
        wrong = (values > bound).nonzero().flatten()
        return self.reading(
            values.numpy(),
            coords={"token": tuple(range(length))},
            step=probe.step,
            facts={
                "cache": cache,
                "tolerance": bound,
                "violated": bool(len(wrong)),
                "first_position": int(wrong[0]) if len(wrong) else None,
                "largest": float(values.max()),
                "first_layer": layers.first_apart(length, bound) if len(wrong) else None,
            },
        )


@dataclass
class _Layers:
    """What the module of each attention gives, in the fresh run and in every step of the decode."""

    numbers: dict[str, int]
    model: nn.Module
    runs: list[dict[str, Tensor]] = field(default_factory=lambda: [{}])
    handles: list[Any] = field(default_factory=list)

    @classmethod
    def of(cls, model: nn.Module, anatomy: Anatomy) -> _Layers:
        """Of the attentions that have a module of their own."""
        paths = [attention.module for attention in anatomy.attentions]
        alone = {item.module: item.layer for item in anatomy.attentions if paths.count(item.module) == 1}
        return cls({path: layer for path, layer in alone.items() if path}, model)

    def __enter__(self) -> _Layers:
        modules = dict(self.model.named_modules())
        for path in self.numbers:
            if path in modules:
                self.handles.append(modules[path].register_forward_hook(partial(self._keep, path)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def next_run(self) -> None:
        """What comes belongs to another run."""
        self.runs.append({})

    def first_apart(self, length: int, bound: float) -> int | None:
        """The first attention, in the order of execution, whose output departs; None when none was seen to."""
        fresh, *steps = self.runs[-length - 1 :]
        for path, layer in sorted(self.numbers.items(), key=lambda item: item[1]):
            whole, parts = fresh.get(path), [step.get(path) for step in steps]
            known = [part for part in parts if part is not None and part.ndim > 2 and part.shape[1] == 1]
            if whole is None or whole.ndim < 3 or len(known) < length or whole.shape[1] != length:
                return None  # a layer that cannot be compared may be the one
            cached = torch.cat(known, 1)
            if cached.shape != whole.shape:
                return None
            if float(change(whole, cached).max()) > bound * float(whole.abs().max()):
                return layer
        return None

    def _keep(self, path: str, module: nn.Module, args: Any, output: Any) -> None:
        made = main_output(output)
        if made is not None:
            self.runs[-1][path] = made


def _keywords(model: nn.Module, batch: Any) -> dict[str, Any] | None:
    """The batch as keyword arguments, without labels (which would make the model compute a loss)."""
    inputs = batch[0] if isinstance(batch, list | tuple) and len(batch) == 2 else batch
    if isinstance(inputs, Tensor):
        return {next(iter(inspect.signature(model.forward).parameters), ""): inputs}
    if not isinstance(inputs, Mapping):
        return None
    return {str(key): value for key, value in inputs.items() if "label" not in str(key)}


def _key(sequence: Sequence, inputs: Mapping[str, Any]) -> str | None:
    return next((key for key, value in inputs.items() if value is sequence.tensor), None)


def _cache_name(model: nn.Module, inputs: Mapping[str, Any]) -> str | None:
    """The name under which the output gives a cache and `forward` takes one."""
    accepted = inspect.signature(model.forward).parameters
    extra = {"use_cache": True} if "use_cache" in accepted else {}
    output = model(**inputs, **extra)
    for name in accepted:
        if not any(word in name for word in ("past", "cache", "mems", "state")) or name == "use_cache":
            continue
        held = _held(output, name)
        if held is not None and not isinstance(held, bool) and name not in inputs:
            return name
    return None


def _held(output: Any, name: str) -> Any:
    """The cache in an output: under its name, or what follows the logits in a plain pair."""
    if isinstance(output, Mapping):
        return output.get(name)
    if isinstance(output, tuple) and len(output) == 2 and not hasattr(output, "_fields"):
        return output[1]
    return getattr(output, name, None)


def _both(
    model: nn.Module, inputs: Mapping[str, Any], key: str, cache: str, length: int, layers: _Layers
) -> tuple[Tensor | None, Tensor | None]:
    """Logits of a fresh run and of a decode with the cache, over the first `length` positions."""
    accepted = inspect.signature(model.forward).parameters
    extra = {"use_cache": True} if "use_cache" in accepted else {}
    whole = inputs[key].shape
    layers.next_run()
    fresh = main_output(model(**_upto(inputs, whole, length)))
    steps, past = [], None
    for position in range(length):
        layers.next_run()
        now = _upto(inputs, whole, position + 1)
        for name, value in now.items():
            if isinstance(value, Tensor) and tuple(value.shape[:2]) == (whole[0], position + 1):
                # a mask covers what is cached, everything else is given for the new token only
                now[name] = value if "mask" in name else value[:, position:]
        output = model(**now, **extra, **({cache: past} if past is not None else {}))
        past = _held(output, cache)
        steps.append(main_output(output))
    if fresh is None or any(step is None or step.ndim < 3 or step.shape[1] != 1 for step in steps):
        return None, None
    return fresh, torch.cat([step for step in steps if step is not None], 1)


def _upto(inputs: Mapping[str, Any], whole: torch.Size, length: int) -> dict[str, Any]:
    return {
        name: value[:, :length]
        if isinstance(value, Tensor) and value.ndim >= 2 and value.shape[:2] == whole[:2]
        else value
        for name, value in inputs.items()
    }
