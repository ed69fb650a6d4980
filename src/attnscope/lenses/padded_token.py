"""How far an output moves when only the content under padding is changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from attnscope.lenses import Lens
from attnscope.lenses._identity import (
    Trial,
    compare,
    compare_outcomes,
    entries_of,
    outcome,
    output_mask,
    position_axis,
)
from attnscope.lenses._sequence import Sequence, main_sequence, other_values
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class PaddedToken(Lens):
    """How far the model moves when only what lies under its padding is changed: exactly zero when masked.

    **Measures**: two runs in eval mode with the same mask and other content under the padding. Per attention,
    the largest change of its result at real positions, relative to the largest result. The facts hold the
    same for the output (`moved`, `exact`, `tolerance`, `violated`) and where it starts (`first_layer`,
    `outside_attention`). The padding tokens themselves stay, since a model may make its mask from them: what
    their embedding gives is changed (`method`: `embedding`; `content` where there is no embedding).

    **Reading it**: 0 bit for bit when padding is masked everywhere. Above the tolerance: something reads it.
    A convolution or a recurrent layer before the attention may read padding on purpose
    (`outside_attention` is then true).

    **Shapes**: (layer,).

    **Cost**: one watched forward pass.

    **Reference**: an identity; for the symptom see Jahan and Rahman, 2025, arXiv:2508.04925.
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("layer",)

    def measure(self, probe: Probe) -> Reading:
        """Exchanges the content under the padding and compares what is real."""
        if probe.expects.padding_mask is None and probe.expects.padding_token is None:
            return self.not_applicable("no padding is stated, and none could be inferred")
        sequence = main_sequence(probe)
        if sequence is None:
            return self.not_applicable("the batch holds no sequence of tokens or features")
        padding = ~sequence.real
        if not bool(padding.any()):
            return self.not_applicable("the batch holds no padding; pass one with texts of unequal length")
        if not bool(sequence.real.any()):
            return self.not_applicable("the batch holds padding only")
        output = outcome(probe).output
        where = None
        if output is not None:
            axis = position_axis(probe, output, sequence)
            where = output_mask(output, axis, sequence, sequence.real)
            if axis is None:
                where = torch.ones((), dtype=torch.bool)
        facts = {"n_padded": int(padding.sum()), "input": sequence.path}
        entries = entries_of(sequence.real)
        if sequence.use == "tokens":
            before = outcome(probe)
            with _OtherEmbedding(sequence, padding, probe.seed) as mode:
                after = outcome(probe, probe.batch)
            if mode.n_changed:
                found = compare_outcomes(probe, [(before, after, where, entries)])
                return found.reading(self, probe, method="embedding", **facts)
            if probe.expects.padding_mask is None:
                return self.not_applicable(
                    "the mask may be made from the padding token itself, and no embedding of it was seen"
                )
        batch = sequence.put(probe.batch, other_values(sequence, padding, probe.seed))
        return compare(probe, [Trial(batch, entries, where)]).reading(self, probe, method="content", **facts)


class _OtherEmbedding(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds noise to what an embedding of the token sequence gives at padded positions."""

    def __init__(self, sequence: Sequence, padding: Tensor, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tokens = sequence.tensor
        self.padding = padding if sequence.batch_axis != 1 else padding.transpose(0, 1)
        self.seed = seed
        self.n_changed = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.embedding.default and self._reads_tokens(args[1]):
            self.n_changed += 1
            generator = torch.Generator().manual_seed(self.seed)
            noise = torch.randn(result.shape, generator=generator).to(result)
            padded = self.padding.reshape(args[1].shape).to(result.device)
            spread = result.detach().std().clamp(min=1e-3)
            return torch.where(padded[..., None], result + spread * noise, result)
        return result

    def _reads_tokens(self, indices: Tensor) -> bool:
        if indices.numel() != self.tokens.numel():
            return False
        return torch.equal(indices.flatten(), self.tokens.flatten().to(indices.dtype))
