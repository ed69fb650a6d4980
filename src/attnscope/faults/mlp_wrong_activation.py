"""One feed-forward network has another activation than the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, FaultError, attention_of
from attnscope.faults._surroundings import mlp_blocks, mlp_linears, mlp_obstacle

WRONG: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "identity": torch.clone,
}


@dataclass
class Between:
    """What happens between two linear maps; it holds the first one's output until the second is called."""

    activation: str
    strength: float
    held: Tensor | None = None

    def see(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        """Forward hook of the first map."""
        self.held = output

    def replace(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Forward pre-hook of the second map."""
        held, self.held = self.held, None
        if held is None:
            return args
        wrong = WRONG[self.activation](held)
        return ((1 - self.strength) * args[0] + self.strength * wrong, *args[1:])


@dataclass(frozen=True)
class MlpWrongActivation(Fault):
    """Puts a wrong function between the two linear maps of one feed-forward network.

    **Injects**: (1 - strength) times the right activation plus strength times the wrong one.

    **Strength**: how much of it is wrong.

    **Visible as**: curvature that differs from that of the other layers; saturated or linear neurons.

    Attributes:
        activation: `sigmoid`, `tanh`, `relu`, or `identity` (forgotten).
    """

    activation: str = "sigmoid"
    recognised_as: ClassVar[tuple[str, ...]] = ("operation_out_of_line",)
    visibility: ClassVar[str] = "C"
    ids: ClassVar[tuple[str, ...]] = ("FCA",)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a feed-forward network of two linear maps."""
        return mlp_obstacle(case, anatomy, attention_of(anatomy, self.layer))

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Replaces the input of the second map by what the wrong activation makes of the first one's output."""
        if self.activation not in WRONG:
            raise FaultError(f"no activation {self.activation!r}; there are {', '.join(WRONG)}")
        up, down = mlp_linears(case.model, anatomy, attention_of(anatomy, self.layer))
        between = Between(self.activation, self.strength)
        up.register_forward_hook(between.see)
        down.register_forward_pre_hook(between.replace)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """Both linear maps, between which it stands."""
        return tuple(block.name for block in mlp_blocks(anatomy, attention_of(anatomy, self.layer)))
