"""A batch normalisation never updates the statistics that it uses in eval mode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from attnscope.anatomy.blocks import Anatomy, Role
from attnscope.case import Case
from attnscope.faults import Fault
from attnscope.findings import Label

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class NormStatisticsFrozen(Fault):
    """Sets the momentum of one batch normalisation to zero: eval mode uses mean 0 and variance 1 for ever.

    **Injects**: momentum times 1 - strength.

    **Strength**: 1 is a momentum of zero; 0.99 makes the statistics a hundred times too slow.

    **Visible as**: a model whose train mode is well and whose eval mode is not, after some steps.

    Attributes:
        number: which of the model's batch normalisations.
    """

    number: int = 0
    recognised_as: ClassVar[tuple[str, ...]] = ("norm_statistics_frozen",)
    visibility: ClassVar[str] = "U"
    ids: ClassVar[tuple[str, ...]] = ("V9",)
    severities: ClassVar[tuple[float, ...]] = (0.9, 0.99, 1.0)
    layered: ClassVar[bool] = False

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a batch normalisation with running statistics and a momentum."""
        found = len(_norms(case.model))
        if -found <= self.number < found:
            return ""
        return f"the model has {found} batch normalisations with a momentum, so there is no number {self.number}"

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Sets the momentum."""
        norm = _norms(case.model)[self.number]
        norm.momentum = (norm.momentum or 0.0) * (1 - self.strength)

    def label(self, case: Case) -> Label:
        """The block of that normalisation."""
        norm = _norms(case.model)[self.number]
        path = next(path for path, module in case.model.named_modules() if module is norm)
        return Label(self.name, (path,), visibility=self.visibility)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """Any normalisation that belongs to no attention; `label` names the one."""
        return tuple(block.name for block in anatomy.blocks if block.role == Role.NORM and block.layer is None)


def _norms(model: nn.Module) -> list[nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d]:
    found = [module for module in model.modules() if isinstance(module, NORMS)]
    return [module for module in found if module.track_running_stats and module.momentum]
