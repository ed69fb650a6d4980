"""Whether the two factors of each low-rank adapter receive gradients that belong together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.lenses import Lens
from attnscope.lenses._factors import THRESHOLDS, precision_of, residual
from attnscope.lenses._low_rank import low_rank_pairs, products, zeros_where_unreached
from attnscope.lenses._parameters import named
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class LoraGradientIdentity(Lens):
    """Whether the factors of a low-rank adapter (LoRA) receive gradients that belong together.

    **Measures**: ||B^T dL/dB - dL/dA A^T|| relative to the mean norm of both, per adapter. The weight depends
    on A and B through B A alone, so the two are equal for every loss and batch. A fresh adapter (B = 0) has
    both zero.

    **Reading it**: rounding (`tolerance` in the facts). 2.0: one factor gets no gradient; 0.667: one gets half
    of it.

    **Shapes**: (block,): the adapted weights.

    **Cost**: one gradient in eval mode.

    **Reference**: Hu et al., 2021, arXiv:2106.09685 (the adapter); the identity is derived as in
    `query_key_gradient_identity`.
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("block",)
    needs: ClassVar[tuple[str, ...]] = ("gradient",)

    def measure(self, probe: Probe) -> Reading:
        """Compares both sides per adapter."""
        pairs = low_rank_pairs(probe.model)
        reached = [
            pair for pair in pairs if probe.gradients.get(pair.a) is not None or probe.gradients.get(pair.b) is not None
        ]
        if not reached:
            return self.not_applicable(
                "the model has no low-rank adapter" if not pairs else "no gradient reaches an adapter"
            )
        precision = precision_of(probe)
        weights = named(probe.model)
        gradients = zeros_where_unreached(weights, probe.gradients)
        values = []
        for pair in reached:
            left, right = products(weights, gradients, pair)
            size = max(
                float(weights[name].double().norm() * gradients[name].double().norm()) for name in (pair.a, pair.b)
            )
            values.append(residual(left.cpu(), right.cpu(), size, precision))
        names = tuple(pair.weight for pair in reached)
        return self.reading(
            values,
            coords={"block": names},
            step=probe.step,
            facts={
                "tolerance": THRESHOLDS[precision],
                "precision": precision,
                "violated": [name for name, value in zip(names, values, strict=True) if value > THRESHOLDS[precision]],
                "fresh": [pair.weight for pair in reached if not bool(weights[pair.b].any())],
            },
        )
