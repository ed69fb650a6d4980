"""The sequence in a batch: where the tokens are, on which axes, which are real, how they are changed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from attnscope.anatomy.blocks import Kind
from attnscope.lenses._batch import tensors, with_tensors
from attnscope.probe import Probe

_NOT_TOKENS = ("label", "target", "mask", "position", "type", "segment")


@dataclass(frozen=True)
class Sequence:
    """One sequence input, as `[example, position]` (further axes between them are folded into examples).

    Attributes:
        path: where it is in the batch.
        use: `tokens` (integer ids) or `features` (numbers per position).
        tensor: as it is in the batch.
        batch_axis, position_axis: of `tensor`; `batch_axis` is None for a lone sequence.
        axes_known: whether something besides convention says which axis is which.
        real: bool, True on real positions, in the layout `[..., position]` of `ids`.
    """

    path: str
    use: str
    tensor: Tensor
    batch_axis: int | None
    position_axis: int
    axes_known: bool
    real: Tensor

    @property
    def length(self) -> int:
        """Number of positions."""
        return self.tensor.shape[self.position_axis]

    @property
    def size(self) -> int:
        """Number of examples."""
        return 1 if self.batch_axis is None else self.tensor.shape[self.batch_axis]

    def laid_out(self, tensor: Tensor) -> Tensor:
        """A tensor of this layout as `[example, ..., position, (feature)]`."""
        if self.batch_axis is None:
            return tensor.unsqueeze(0)
        return tensor.transpose(0, 1) if self.batch_axis == 1 else tensor

    def put(self, batch: Any, laid_out: Tensor) -> Any:
        """The batch with this sequence exchanged, given as `[example, ..., position, (feature)]`."""
        tensor = laid_out
        if self.batch_axis is None:
            tensor = laid_out[0]
        elif self.batch_axis == 1:
            tensor = laid_out.transpose(0, 1).contiguous()
        return with_tensors(batch, {self.path: tensor})


def sequences(probe: Probe, batch: Any = None) -> tuple[Sequence, ...]:
    """Every sequence input, tokens first, in the order of the batch."""
    batch = probe.batch if batch is None else batch
    held = tensors(batch)
    uses = {item.path: item.use for item in probe.anatomy.inputs}
    known = [path for path, tensor in held.items() if uses.get(path) == "tokens" and _may_be_tokens(tensor)]
    if not known:
        known = [
            path
            for path, tensor in held.items()
            if path not in uses and _may_be_tokens(tensor) and not any(word in path.lower() for word in _NOT_TOKENS)
        ][:1]
    found = [_sequence(probe, held, path, "tokens") for path in known]
    if not found:
        features = [
            path
            for path, tensor in held.items()
            if uses.get(path, "features") == "features" and tensor.is_floating_point() and tensor.ndim == 3
        ]
        found = [_sequence(probe, held, path, "features") for path in features]
    return tuple(item for item in found if item.length > 1)


def main_sequence(probe: Probe, batch: Any = None) -> Sequence | None:
    """The sequence that the model reads; of an encoder-decoder the one that its encoder reads."""
    found = sequences(probe, batch)
    return found[0] if found else None


def predicted_sequence(probe: Probe, batch: Any = None) -> Sequence | None:
    """The sequence whose future must not be seen; of an encoder-decoder the one that its decoder reads."""
    found = sequences(probe, batch)
    crossed = any(attention.kind is Kind.CROSS for attention in probe.anatomy.attentions)
    if not crossed:
        return found[0] if found else None
    named = [item for item in found if "decoder" in item.path.lower() or "tgt" in item.path.lower()]
    return named[0] if named else found[1] if len(found) > 1 else None


def _may_be_tokens(tensor: Tensor) -> bool:
    numbers = tensor.is_floating_point() or tensor.is_complex() or tensor.dtype is torch.bool
    return not numbers and tensor.ndim >= 1


def _sequence(probe: Probe, held: dict[str, Tensor], path: str, use: str) -> Sequence:
    tensor = held[path]
    n_axes = tensor.ndim - (use == "features")
    if n_axes == 1:
        plain = Sequence(path, use, tensor, None, 0, True, _everywhere(1, tensor.shape[0]))
    elif n_axes > 2:
        plain = Sequence(path, use, tensor, 0, n_axes - 1, True, _everywhere(*tensor.shape[:n_axes]))
    else:
        shape = (tensor.shape[0], tensor.shape[1])
        first, known = _sequence_first(held, path, shape)
        real = _everywhere(*(reversed(shape) if first else shape))
        plain = Sequence(path, use, tensor, int(first), int(not first), known, real)
    return replace(plain, real=_real(probe, held, plain))


def _everywhere(*shape: int) -> Tensor:
    return torch.ones(shape, dtype=torch.bool)


def _sequence_first(held: dict[str, Tensor], path: str, shape: tuple[int, int]) -> tuple[bool, bool]:
    """Whether axis 0 is the position, and whether that is known rather than taken by convention.

    The attention's own sizes do not tell: a model that exchanges the two axes by mistake looks the same as
    one that wants its sequences first. A mask that is laid out the other way, or one label per example, does.
    """
    if shape[0] == shape[1]:
        return False, False
    for other, tensor in held.items():
        if other == path or not tensor.ndim:
            continue
        sizes = tuple(tensor.shape)
        if sizes[:2] == (shape[1], shape[0]):
            return True, True
        if tensor.ndim == 1 and sizes[0] in shape:
            return sizes[0] == shape[1], True
        if sizes[:2] == shape and "mask" in other.lower():
            return False, True
    return False, False


def _real(probe: Probe, held: dict[str, Tensor], sequence: Sequence) -> Tensor:
    """True on real positions: by the author's padding mask, else by the padding token, else everywhere."""
    everywhere = sequence.real
    stated = probe.expects.padding_mask
    if stated is not None:
        ending = f"[{stated!r}]"
        for path, tensor in held.items():
            if not path.endswith(ending) or path == sequence.path:
                continue
            mask = (tensor > 0.5) if tensor.is_floating_point() else tensor.bool()
            for laid_out in (mask, mask.transpose(0, 1) if mask.ndim == 2 else mask):
                if laid_out.shape == everywhere.shape:
                    return laid_out.cpu()
    token = probe.expects.padding_token
    if token is not None and sequence.use == "tokens":
        return _not_trailing(sequence.laid_out(sequence.tensor).cpu() == token)
    return everywhere


def _not_trailing(padding: Tensor) -> Tensor:
    """False on the runs of padding at either end: a padding token in the middle of a text is text."""
    after = padding.flip(-1).long().cumprod(-1).flip(-1).bool()
    before = padding.long().cumprod(-1).bool()
    return ~(after | before)


def other_values(sequence: Sequence, where: Tensor, seed: int) -> Tensor:
    """The sequence with other content at `where`, drawn from what the batch holds elsewhere.

    Args:
        sequence: what is changed.
        where: bool, in the layout of `sequence.real`.
        seed: for features.

    Returns:
        `[example, ..., position, (feature)]`; other everywhere in `where`, the same elsewhere.
    """
    old = sequence.laid_out(sequence.tensor)
    where = where.to(old.device)
    if sequence.use == "features":
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(old.shape, generator=generator, dtype=torch.float64).to(old.dtype).to(old.device)
        spread = old.double().std().clamp(min=1e-3).to(old.dtype)
        return torch.where(where[..., None], old + spread * noise, old)
    return torch.where(where, _other_tokens(sequence, old), old)


def _other_tokens(sequence: Sequence, old: Tensor) -> Tensor:
    """For every token another one of the batch, so that it is in the vocabulary."""
    plain = ordinary_tokens(sequence)
    values = torch.tensor(plain, device=old.device, dtype=old.dtype)
    if len(plain) < 2:
        return torch.where(old == 0, torch.ones_like(old), old - 1)
    rank = torch.searchsorted(values, old.contiguous()).clamp(max=len(plain) - 1)
    known = values[rank] == old
    return values[torch.where(known, (rank + 1) % len(plain), rank % len(plain))]


def ordinary_tokens(sequence: Sequence) -> list[int]:
    """The ids on real positions; less those that every example has (start and end), when enough remain."""
    ids = sequence.laid_out(sequence.tensor).cpu()
    per_example = [set(ids[i][sequence.real[i]].flatten().tolist()) for i in range(ids.shape[0])]
    every = set().union(*per_example)
    shared = set.intersection(*per_example) if len(per_example) > 1 else set()
    kept = every - shared
    return sorted(kept if len(kept) >= 2 else every)
