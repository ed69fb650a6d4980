"""One feed-forward network starts from a constant instead of random numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, FaultError, attention_of
from attnscope.faults._parameters import views
from attnscope.faults._surroundings import mlp_blocks


@dataclass(frozen=True)
class MlpConstantStart(Fault):
    """Fills the weight matrices of one feed-forward network before training, and zeroes its biases.

    **Injects**: the filling, once: zeros or ones give every neuron the same gradient, so training keeps them equal
    (zeros get none at all).

    **Strength**: how far each weight goes from its own value to the filling.

    **Visible as**: dead or equal rows.

    Attributes:
        filling: `zeros`, `ones`, or `uniform` (between 0 and 1, drawn with the seed).
    """

    filling: str = "zeros"
    recognised_as: ClassVar[tuple[str, ...]] = ("zeroed_weights", "symmetric_units")
    visibility: ClassVar[str] = "C"
    ids: ClassVar[tuple[str, ...]] = ("FWI",)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a feed-forward network."""
        found = mlp_blocks(anatomy, attention_of(anatomy, self.layer))
        return "" if found else "no feed-forward network stands beside this attention"

    @torch.no_grad()
    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Fills the weights."""
        generator = torch.Generator().manual_seed(self.seed)
        for block in mlp_blocks(anatomy, attention_of(anatomy, self.layer)):
            for part in views(case.model, block.slices):
                part.lerp_(self._filled(part, generator), self.strength)

    def _filled(self, part: Tensor, generator: torch.Generator) -> Tensor:
        if part.ndim < 2 or self.filling == "zeros":
            return torch.zeros_like(part)
        if self.filling == "ones":
            return torch.ones_like(part)
        if self.filling == "uniform":
            return torch.rand(part.shape, generator=generator).to(part)
        raise FaultError(f"no filling {self.filling!r}; there are zeros, ones, uniform")

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """Its linear maps."""
        return tuple(block.name for block in mlp_blocks(anatomy, attention_of(anatomy, self.layer)))
