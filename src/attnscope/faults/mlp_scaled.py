"""The feed-forward network of one layer is too loud or too quiet beside the residual stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._surroundings import change_output, mlp_blocks, mlp_linears, mlp_obstacle


@dataclass(frozen=True)
class MlpScaled(Fault):
    """Multiplies what the second linear map of one feed-forward network puts out.

    **Injects**: output times 1 + strength in the forward pass, as a factor left over from another model does.

    **Strength**: 1 doubles, -0.5 halves.

    **Visible as**: curvature and gradients of that map scaled against its weights; one branch that drowns the
    others, or is drowned.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("operation_out_of_line",)
    visibility: ClassVar[str] = "C"
    ids: ClassVar[tuple[str, ...]] = ("FSW",)
    severities: ClassVar[tuple[float, ...]] = (-0.5, 1.0, 4.0)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a feed-forward network of two linear maps."""
        return mlp_obstacle(case, anatomy, attention_of(anatomy, self.layer))

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Multiplies the output."""
        factor = 1 + self.strength

        def scale(module: nn.Module, output: Tensor) -> Tensor:
            return output * factor

        change_output(mlp_linears(case.model, anatomy, attention_of(anatomy, self.layer))[-1], scale)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The second linear map."""
        return tuple(block.name for block in mlp_blocks(anatomy, attention_of(anatomy, self.layer))[-1:])
