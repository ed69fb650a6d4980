"""How the loss changes when two projections, or two layers, exchange their weights."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from attnscope.anatomy.blocks import Anatomy, Attention, Block, ParameterSlice, Role, without_numbers
from attnscope.lenses import STANDARD, Lens
from attnscope.probe import Probe
from attnscope.readings import Reading

_PAIRS = (("query", "key"), ("value", "output"), ("query", "value"), ("key", "value"))
_LETTERS = {"query": "Q", "key": "K", "value": "V", "output": "O"}

Exchange = tuple[str, str, list[tuple[ParameterSlice, ParameterSlice]]]


@dataclass(frozen=True)
class ExchangedBlocks(Lens):
    """How the loss changes when two projections, or two layers, exchange their weights: it should rise.

    **Measures** the mean over batches of loss(exchanged) - loss, in eval mode, for the pairs query-key,
    value-output, query-value and key-value of each layer, and for pairs of whole layers of one stack. Each
    exchange is put back before the next. An exchange that does not lower the loss of a batch is not tried on
    the batches behind it.

    **Reading it** in a trained model every exchange raises the loss. A clear fall means that the two were
    exchanged: when weights were loaded or converted, say. Near 0 in an untrained model, where any order is as
    good.

    **Shapes** [exchange]. Facts: `loss`: before; `pairs`: [a, b] per exchange, in order; `kinds`: `roles` or
    `layers`; `falls_everywhere`: whether the loss falls on each of the batches.

    **Cost** one forward pass per exchange, and one more per batch while the loss falls: at most four exchanges
    per layer and `max_layers` pairs of layers.

    **Reference** an intervention; for the fault see Jahan & Rahman 2025, arXiv:2508.04925 (swapped
    projections).
    """

    unit: ClassVar[str] = "loss"
    dims: ClassVar[tuple[str, ...]] = ("exchange",)
    needs: ClassVar[tuple[str, ...]] = ("loss", "weights")
    effort: ClassVar[str] = STANDARD

    max_layers: int = 12
    max_batches: int = 2

    def applies_to(self, anatomy: Anatomy) -> str:
        """Needs two blocks of equal shape."""
        if not anatomy.attentions:
            return "the model has no attention"
        return "" if next(iter(self._exchanges(anatomy)), None) else "no two projections have equal shapes"

    def measure(self, probe: Probe) -> Reading:
        """Exchanges, looks at the loss, puts back."""
        exchanges = list(self._exchanges(probe.anatomy))
        if not exchanges:
            return self.not_applicable(self.applies_to(probe.anatomy))
        batches = probe.batches[: self.max_batches]
        with probe.evaluating() as model, torch.no_grad():
            named = dict(model.named_parameters())
            before = [float(probe.loss_of(model, batch)) for batch in batches]
            changes = [_changes(probe, model, named, pieces, batches, before) for _, _, pieces in exchanges]
        return self.reading(
            [np.mean(row) for row in changes],
            coords={"exchange": tuple(f"{a}, {b}" for a, b, _ in exchanges)},
            step=probe.step,
            facts={
                "loss": float(np.mean(before)),
                "pairs": [[a, b] for a, b, _ in exchanges],
                "kinds": ["roles" if "." in a else "layers" for a, _, _ in exchanges],
                "falls_everywhere": [all(change < 0 for change in row) for row in changes],
            },
        )

    def _exchanges(self, anatomy: Anatomy) -> Iterator[Exchange]:
        """Every pair that is tried: names of both, and the slices that change places."""
        blocks = {block.name: block for block in anatomy.blocks}
        for attention in anatomy.attentions:
            for first, second in _PAIRS:
                a, b = (blocks.get(attention.blocks.get(role, "")) for role in (first, second))
                pieces = _matched(a, b)
                if pieces:
                    layer = attention.name
                    yield f"{layer}.{_LETTERS[first]}", f"{layer}.{_LETTERS[second]}", pieces
        pairs = itertools.combinations(anatomy.attentions, 2)
        for one, two in itertools.islice((pair for pair in pairs if _same_stack(*pair)), self.max_layers):
            mine, other = _beside(anatomy, one), _beside(anatomy, two)
            if len(mine) == len(other) and mine:
                matched = [_matched(a, b) for a, b in zip(mine, other, strict=True)]
                if all(matched):
                    yield one.name, two.name, [piece for pieces in matched for piece in pieces]


def _same_stack(one: Attention, two: Attention) -> bool:
    def path(attention: Attention) -> str:
        return without_numbers(attention.module)

    return path(one) == path(two) and one.kind == two.kind


def _beside(anatomy: Anatomy, attention: Attention) -> list[Block]:
    """The blocks of a layer: its projections, and the norms and networks that stand beside it."""
    roles = (*(Role(role) for role in _LETTERS), Role.NORM, Role.MLP)
    return [block for block in anatomy.blocks if block.layer == attention.layer and block.role in roles]


def _matched(a: Block | None, b: Block | None) -> list[tuple[ParameterSlice, ParameterSlice]]:
    """The slices of two blocks side by side; empty when they differ in shape or are the same."""
    if a is None or b is None or a.name == b.name or len(a.slices) != len(b.slices):
        return []
    pieces = list(zip(a.slices, b.slices, strict=True))
    return pieces if all(_shape(one) == _shape(two) and one != two for one, two in pieces) else []


def _shape(piece: ParameterSlice) -> tuple[int, ...]:
    shape = list(piece.shape)
    if piece.dim is not None:
        shape[piece.dim] = sum(stop - start for start, stop in piece.ranges)
    return tuple(shape)


def _changes(
    probe: Probe,
    model: nn.Module,
    named: dict[str, nn.Parameter],
    pieces: list[tuple[ParameterSlice, ParameterSlice]],
    batches: tuple[object, ...],
    before: list[float],
) -> list[float]:
    """How the loss of each batch changes with the slices exchanged, up to the first that does not fall."""
    found: list[float] = []
    _exchange(named, pieces)
    try:
        for batch, loss in zip(batches, before, strict=True):
            found.append(float(probe.loss_of(model, batch)) - loss)
            if not found[-1] < 0:
                break
    finally:
        _exchange(named, pieces)  # they are put back
    return found


def _exchange(named: dict[str, nn.Parameter], pieces: list[tuple[ParameterSlice, ParameterSlice]]) -> None:
    for a, b in pieces:
        first, second = _read(named, a), _read(named, b)
        _write(named, a, second)
        _write(named, b, first)


def _read(named: dict[str, nn.Parameter], piece: ParameterSlice) -> Tensor:
    tensor = named[piece.parameter].detach()
    if piece.dim is None:
        return tensor.clone()
    return torch.cat(
        [tensor.narrow(piece.dim, start, stop - start) for start, stop in piece.ranges], piece.dim
    )


def _write(named: dict[str, nn.Parameter], piece: ParameterSlice, values: Tensor) -> None:
    tensor = named[piece.parameter].detach()
    if piece.dim is None:
        tensor.copy_(values)
        return
    begin = 0
    for start, stop in piece.ranges:
        tensor.narrow(piece.dim, start, stop - start).copy_(values.narrow(piece.dim, begin, stop - start))
        begin += stop - start
