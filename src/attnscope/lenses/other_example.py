"""How far one example's output moves when only another example of the batch is changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from attnscope.lenses import Lens
from attnscope.lenses._batch import examples, mapped, n_examples
from attnscope.lenses._identity import Trial, compare, outcome
from attnscope.lenses._movement import Entries
from attnscope.lenses._sequence import Sequence, main_sequence, other_values
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class OtherExample(Lens):
    """How far one example moves when only another one of the batch is changed: exactly zero in eval mode.

    **Measures**: two runs in eval mode that differ in the last example of the batch only. Per attention, the
    largest change of its result in the other examples, relative to the largest result. The facts hold the
    same for the output (`moved`, `exact`, `tolerance`, `violated`) and where it starts (`first_layer`,
    `outside_attention`).

    **Reading it**: 0 bit for bit. Above the tolerance, examples see each other: batch and position axes are
    exchanged, a softmax runs over the batch, heads are merged across examples, or a normalisation uses the
    statistics of the batch in eval mode (`outside_attention`). `axes_known` is false when nothing but
    convention says which axis of the batch counts examples.

    **Shapes**: (layer,).

    **Cost**: two watched forward passes.

    **Reference**: an identity.
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("layer",)

    def measure(self, probe: Probe) -> Reading:
        """Changes the last example and compares the others."""
        sequence = main_sequence(probe)
        axis = 0 if sequence is None or sequence.batch_axis is None else sequence.batch_axis
        if sequence is None and _one_set(probe):
            return self.not_applicable("the batch is one set of items that attend to each other")
        size = _size(probe, sequence)
        if size is None:
            return self.not_applicable("the batch's tensors do not agree on the number of examples")
        batch, count = _distinct_sizes(probe, sequence, size, axis)
        if count is None:
            return self.not_applicable("the batch holds one example, and the model does not take two")
        changed = _other_last(probe, batch, sequence, count, axis)
        before = outcome(probe, batch).output
        where = None if before is None else _others(before, count, axis)
        found = compare(probe, [Trial(changed, _entries(count), where, batch_before=batch)])
        return found.reading(
            self,
            probe,
            n_examples=count,
            batch_axis=axis,
            axes_known=sequence is None or sequence.axes_known,
        )


def _one_set(probe: Probe) -> bool:
    """Whether the items along the first axis of the batch are what the attentions attend to: a graph, a bag."""
    attentions = probe.anatomy.attentions
    count = n_examples(probe, probe.batch)
    return bool(attentions) and all(item.batch_size == 1 and item.n_keys == count for item in attentions)


def _size(probe: Probe, sequence: Sequence | None) -> int | None:
    if sequence is not None:
        return None if sequence.batch_axis is None else sequence.size
    return n_examples(probe, probe.batch)


def _distinct_sizes(probe: Probe, sequence: Sequence | None, size: int, axis: int) -> tuple[Any, int | None]:
    """The batch with at least two examples, and not as many as positions, so that no axis is mistaken."""
    length = None if sequence is None else sequence.length
    for count in (size, size - 1, size + 1, 2, 3):
        if count < 2 or count == length:
            continue
        if count == size:
            return probe.batch, count
        batch = examples(probe.batch, [index % size for index in range(count)], size, axis)
        try:
            probe.output(batch)
        except Exception:  # a model of fixed batch size
            continue
        return batch, count
    return (probe.batch, size) if size > 1 else (probe.batch, None)


def _other_last(probe: Probe, batch: Any, sequence: Sequence | None, count: int, axis: int) -> Any:
    """The batch with other content in its last example."""
    if sequence is not None:
        there = main_sequence(probe, batch)
        if there is not None:
            last = torch.zeros_like(there.real)
            last[-1] = there.real[-1]
            return there.put(batch, other_values(there, last, probe.seed))
    generator = torch.Generator().manual_seed(probe.seed)

    def change(path: str, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point() or tensor.ndim <= axis or tensor.shape[axis] != count:
            return tensor
        made = tensor.clone()
        noise = torch.randn(made.select(axis, -1).shape, generator=generator).to(made)
        made.select(axis, -1).add_(noise * tensor.std().clamp(min=1e-3))
        return made

    return mapped(batch, change)


def _others(output: Tensor, count: int, axis: int) -> Tensor | None:
    """True on all examples of the output but the last."""
    found = [dim for dim in (axis, 0) if output.ndim > dim and output.shape[dim] == count]
    if not found:
        return None
    mask = torch.ones(count, dtype=torch.bool)
    mask[-1] = False
    return mask.reshape(*[1] * found[0], count, *[1] * (output.ndim - found[0] - 1))


def _entries(count: int) -> Entries:
    def entries(batch_size: int, n_queries: int) -> Tensor | None:
        if batch_size % count == 0:  # [example], or [example x sentence]
            mask = torch.ones(count, batch_size // count, dtype=torch.bool)
            mask[-1] = False
            return mask.reshape(batch_size, 1).expand(batch_size, n_queries)
        if n_queries == count:  # examples stand where positions should
            mask = torch.ones(batch_size, n_queries, dtype=torch.bool)
            mask[:, -1] = False
            return mask
        return None

    return entries
