"""A convolution over time and space looks at one frame only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault
from attnscope.faults._convolutions import convolution_blocks, obstacle_of_number
from attnscope.faults._keeping import hold
from attnscope.faults._parameters import block_views


@dataclass(frozen=True)
class TemporalExtentLost(Fault):
    """Zeroes the kernel of one convolution at every time but the middle one, and keeps it so while training.

    **Injects**: weights of the other times = 0, after each optimiser step too.

    **Strength**: the share of the output channels that lose them, from the first.

    **Visible as**: weights that are exactly zero, and an output that does not know the order of the frames.

    Attributes:
        number: which of the model's convolutions with an extent in time.
    """

    number: int = 0
    recognised_as: ClassVar[tuple[str, ...]] = ("zeroed_weights",)
    visibility: ClassVar[str] = "A"
    ids: ClassVar[tuple[str, ...]] = ("V10",)
    severities: ClassVar[tuple[float, ...]] = (0.3, 0.6, 1.0)
    layered: ClassVar[bool] = False

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a convolution whose kernel is longer than one frame."""
        return obstacle_of_number(len(_temporal(anatomy)), self.number, "convolutions with an extent in time")

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Zeroes the weights."""
        block = _temporal(anatomy)[self.number]

        def flatten(model: nn.Module, _: int) -> None:
            weight = block_views(model, anatomy, block)[0]
            changed = weight[: max(1, round(self.strength * len(weight)))]
            middle = changed.shape[2] // 2
            changed[:, :, :middle] = 0
            changed[:, :, middle + 1 :] = 0

        hold(case, flatten)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The convolution."""
        return (_temporal(anatomy)[self.number],)


def _temporal(anatomy: Anatomy) -> list[str]:
    names = convolution_blocks(anatomy, n_axes=(5,))
    return [name for name in names if anatomy.block(name).slices[0].shape[2] > 1]
