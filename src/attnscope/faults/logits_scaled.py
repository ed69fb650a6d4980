"""The logits are some times too large or too small."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault
from attnscope.faults._surroundings import change_output, head_module, head_places


@dataclass(frozen=True)
class LogitsScaled(Fault):
    """Multiplies the logits, as a temperature that was left in.

    **Injects**: logits times 1 + strength, in train and in eval mode.

    **Strength**: 1 doubles, -0.5 halves.

    **Visible as**: the loss at the start, and the curvature of the last linear map.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("logits_scaled",)
    visibility: ClassVar[str] = "C"
    ids: ClassVar[tuple[str, ...]] = ("OSL",)
    severities: ClassVar[tuple[float, ...]] = (-0.5, 1.0, 4.0)
    layered: ClassVar[bool] = False

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a module that puts out the logits."""
        return "" if head_module(case) is not None else "no module of the model puts out the logits"

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Multiplies the output of the last module."""
        factor = 1 + self.strength
        module = head_module(case)

        def scale(_: nn.Module, logits: Tensor) -> Tensor:
            return logits * factor

        if module is not None:
            change_output(module, scale)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The last linear map."""
        return head_places(anatomy)
