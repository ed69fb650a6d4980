"""The weights of one convolution act larger or smaller than they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault
from attnscope.faults._convolutions import convolution_blocks, convolutions, obstacle_of_number
from attnscope.faults._projections import Reweighted

GROWTH = 5.0


@dataclass(frozen=True)
class ScaledConvolution(Fault):
    """Multiplies the weights of one convolution in every forward pass, as a gain that is applied twice does.

    **Injects**: weights times 5 to the power of strength. Behind a batch normalisation the function stays what
    it is and only the way in which it is learnt changes.

    **Strength**: 1 multiplies by 5, 0.43 by 2, -0.43 by 0.5.

    **Visible as**: gradient and curvature of the block that do not fit its weights.

    Attributes:
        number: which of the model's convolutions that look at more than one place.
    """

    number: int = 0
    recognised_as: ClassVar[tuple[str, ...]] = ()
    visibility: ClassVar[str] = "C"
    ids: ClassVar[tuple[str, ...]] = ("V11",)
    severities: ClassVar[tuple[float, ...]] = (-0.43, 0.43, 1.0)
    layered: ClassVar[bool] = False

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a convolution."""
        found = min(len(convolutions(case.model)), len(convolution_blocks(anatomy)))
        return obstacle_of_number(found, self.number, "convolutions that look at more than one place")

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Hooks the convolution."""
        factor = GROWTH**self.strength

        def change(weight: Tensor) -> Tensor:
            scaled: Tensor = weight * factor
            return scaled

        convolutions(case.model)[self.number][1].register_forward_hook(Reweighted(change))

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The convolution."""
        return (convolution_blocks(anatomy)[self.number],)
