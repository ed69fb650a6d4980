"""A share of the neurons of one feed-forward network is switched off for good."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._surroundings import change_input, mlp_blocks, mlp_linears, mlp_obstacle, shapes_of


@dataclass(frozen=True)
class MlpNeuronsDropped(Fault):
    """Silences inner neurons of one feed-forward network, in train and in eval mode.

    **Injects**: the second linear map gets zero in place of neurons drawn with the seed.

    **Strength**: the share of the neurons (at least one).

    **Visible as**: rows of the first map and columns of the second with exactly no gradient.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("neurons_dropped",)
    visibility: ClassVar[str] = "C"
    ids: ClassVar[tuple[str, ...]] = ("FDN",)
    severities: ClassVar[tuple[float, ...]] = (0.1, 0.3, 0.5)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a feed-forward network of two linear maps."""
        return mlp_obstacle(case, anatomy, attention_of(anatomy, self.layer))

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Silences the neurons."""
        down = mlp_linears(case.model, anatomy, attention_of(anatomy, self.layer))[-1]
        shapes = shapes_of(case, down)
        if shapes is None:
            return
        n_neurons = shapes[0][-1]
        drawn = torch.randperm(n_neurons, generator=torch.Generator().manual_seed(self.seed))
        alive = torch.ones(n_neurons)
        alive[drawn[: max(1, round(self.strength * n_neurons))]] = 0

        def silence(module: nn.Module, inner: Tensor) -> Tensor:
            return inner * alive.to(inner)

        change_input(down, silence)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """Both linear maps."""
        return tuple(block.name for block in mlp_blocks(anatomy, attention_of(anatomy, self.layer)))
