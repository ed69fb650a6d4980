"""In eval mode the classes are read in another order than they were trained in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault
from attnscope.faults._surroundings import change_output, head_module, head_places


@dataclass(frozen=True)
class ClassesExchanged(Fault):
    """Turns the first classes round by one in eval mode, as a mapping of labels from another checkpoint does.

    **Injects**: logits of those classes rolled by one place, in eval mode only. In train mode as well it would be
    an order like any other.

    **Strength**: the share of the classes (at least two).

    **Visible as**: a loss in eval mode far above that in train mode.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("classes_exchanged",)
    visibility: ClassVar[str] = "I"
    ids: ClassVar[tuple[str, ...]] = ("OOD",)
    severities: ClassVar[tuple[float, ...]] = (0.25, 0.5, 1.0)
    layered: ClassVar[bool] = False

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a module that puts out the logits."""
        return "" if head_module(case) is not None else "no module of the model puts out the logits"

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Rolls the logits."""
        share, module = self.strength, head_module(case)

        def exchange(head: nn.Module, logits: Tensor) -> Tensor:
            if head.training:
                return logits
            n_wrong = max(2, round(share * logits.shape[-1]))
            return torch.cat((logits[..., :n_wrong].roll(1, -1), logits[..., n_wrong:]), -1)

        if module is not None:
            change_output(module, exchange)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The last linear map."""
        return head_places(anatomy)
