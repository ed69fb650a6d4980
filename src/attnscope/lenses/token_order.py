"""How far the model moves when tokens exchange their places, beyond moving along with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from attnscope.anatomy.blocks import Kind
from attnscope.lenses import Lens
from attnscope.lenses._batch import mapped
from attnscope.lenses._identity import by_position, outcome, position_axis
from attnscope.lenses._movement import movement, tolerance
from attnscope.lenses._sequence import Sequence, main_sequence
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class TokenOrder(Lens):
    """How far the model moves when tokens exchange their places: near zero when it cannot tell their order.

    **Measures**: two runs in eval mode; in the second the real tokens between the first and the last are in
    another order (with everything in the batch that belongs to them). Per attention, the change of the result
    at the positions that stayed (a causal one: and see the same set of tokens), relative to the largest result.
    The facts hold the change of the output
    (`moved`; put back in order where it has positions), of the result of the first
    self-attention (`first_attention_moved`), `between_examples`: how far the outputs of two examples are apart
    (nothing can be said about order when the output is the same whatever is put in), and `order_matters`: whether
    the output moved beyond rounding.

    **Reading it**: a model that knows positions moves by 0.01 to 1. Rounding only: no position reaches it, or
    the same position reaches every token. A causal mask alone lets deeper layers know the order, while the
    first attention does not.

    **Shapes**: (layer,).

    **Cost**: one watched forward pass.

    **Reference**: permutation equivariance of self-attention (Vaswani et al., 2017, arXiv:1706.03762).
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("layer",)

    def measure(self, probe: Probe) -> Reading:
        """Exchanges tokens and compares, with sums taken in another order, so by tolerance."""
        sequence = main_sequence(probe)
        if sequence is None or sequence.real.ndim != 2:
            return self.not_applicable("the batch holds no flat sequence of tokens or features")
        order = _order(sequence, probe.seed)
        stayed = order == torch.arange(sequence.length)
        if bool(stayed.all()) or not _contents_differ(sequence, order):
            return self.not_applicable("no example has two different tokens between its first and its last")
        before, after = outcome(probe), outcome(probe, _reordered(probe.batch, sequence, order))
        moved = bound = float("nan")
        if before.output is not None and after.output is not None:
            bound = tolerance(before.output.dtype, 64)
            moved = _output_moved(probe, before.output, after.output, sequence, order)
        layers = _layers(probe, before.observation, after.observation, stayed & sequence.real)
        selfs = [
            layers[index]
            for index, attention in enumerate(probe.anatomy.attentions)
            if attention.kind is Kind.SELF and index < len(layers)
        ]
        facts = {
            "moved": moved,
            "tolerance": bound,
            "order_matters": bool(moved > bound),
            "between_examples": _apart(before.output),
            "first_attention_moved": selfs[0] if selfs else float("nan"),
            "n_moved_tokens": int((~stayed).sum()),
        }
        if moved != moved and not any(value == value for value in layers):
            return self.not_applicable("neither the output nor an attention could be compared")
        names = tuple(attention.layer for attention in probe.anatomy.attentions)
        return self.reading(layers, coords={"layer": names}, step=probe.step, facts=facts)


def _order(sequence: Sequence, seed: int) -> Tensor:
    """`[example, position]`: where each position's new content comes from; the inner real ones are exchanged."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.arange(sequence.length).repeat(sequence.real.shape[0], 1)
    for row in range(order.shape[0]):
        inner = sequence.real[row].nonzero().flatten()[1:-1]
        if len(inner) > 1:
            order[row, inner] = inner[torch.randperm(len(inner), generator=generator)]
            if bool((order[row, inner] == inner).all()):
                order[row, inner] = inner.flip(0)
    return order


def _contents_differ(sequence: Sequence, order: Tensor) -> bool:
    content = sequence.laid_out(sequence.tensor).cpu()
    return not torch.equal(content, _gathered(content, order))


def _gathered(content: Tensor, order: Tensor) -> Tensor:
    index = order.to(content.device).reshape(*order.shape, *[1] * (content.ndim - 2)).expand(content.shape)
    return content.gather(1, index)


def _reordered(batch: Any, sequence: Sequence, order: Tensor) -> Any:
    """The batch with every tensor of [example, position] in the new order, position numbers excepted."""
    shape = sequence.laid_out(sequence.tensor).shape[:2]

    def reorder(path: str, tensor: Tensor) -> Tensor:
        if "position" in path.lower() or tensor.ndim < 2:
            return tensor
        laid_out = sequence.laid_out(tensor)
        if laid_out.shape[:2] != shape or (laid_out.ndim > 2 and path != sequence.path):
            return tensor
        moved = _gathered(laid_out, order)
        if sequence.batch_axis is None:
            return moved[0]
        return moved.transpose(0, 1).contiguous() if sequence.batch_axis == 1 else moved

    return mapped(batch, reorder)


def _output_moved(probe: Probe, before: Tensor, after: Tensor, sequence: Sequence, order: Tensor) -> float:
    """The output's change, after it has been put in the new order where it has positions."""
    if before.shape != after.shape:
        return float("nan")
    if position_axis(probe, before, sequence) is None:
        return movement(before, after)
    old, new = by_position(before, sequence), by_position(after, sequence)
    real = sequence.real.reshape(*sequence.real.shape, *[1] * (old.ndim - 2))
    return movement(_gathered(old, order), new, real)


def _apart(output: Tensor | None) -> float:
    """How far each output is from its neighbour's in the batch; NaN where there is no neighbour."""
    if output is None or output.ndim < 2 or output.shape[0] < 2:
        return float("nan")
    return movement(output, output.roll(1, 0))


def _layers(probe: Probe, before: Any, after: Any, kept: Tensor) -> list[float]:
    """Per attention, the change of its result at positions that kept their token and see the same others."""
    if before is None or after is None:
        return []
    values = []
    pairs = zip(before.attentions, after.attentions, strict=True)
    for attention, (old, new) in zip(probe.anatomy.attentions, pairs, strict=False):
        stayed = kept & _after_the_last(~kept) if attention.causal_source else kept
        a, b = (old.context, new.context) if old.context is not None else (old.pattern, new.pattern)
        if a.shape == b.shape and a.shape[0] == stayed.shape[0] and a.shape[2] == stayed.shape[1]:
            values.append(movement(a, b, stayed[:, None, :, None]))
        elif a.shape == b.shape and old.context is not None and a.shape[2] == 1:
            values.append(movement(a, b))  # pooled: one result per example
        else:
            values.append(float("nan"))
    return values


def _after_the_last(moved: Tensor) -> Tensor:
    """`[example, position]`: whether no position from here on moved; there a causal query sees the same set."""
    return moved.flip(1).cumsum(1).flip(1) == 0
