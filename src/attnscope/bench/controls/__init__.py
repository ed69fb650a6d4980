"""Negative controls: what must raise no finding. One per file.

A control changes a case in a way that is no mistake: it preserves the function exactly (queries times c and keys
over c), or it is a choice that people make (another batch size). A control whose `preserves` is true is checked:
the outputs before and after agree to rounding.

Its docstring has one line that says what is changed, then **Changes** and **Why it is healthy**.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case, default_forward
from attnscope.faults import FaultError, anatomy_of, copy_of
from attnscope.undisturbed import undisturbed

__all__ = ["Control"]

ROUNDING = 1e-4  # of the largest output: float32 after a few layers, and far below what any real change does


@dataclass(frozen=True)
class Control(ABC):
    """A change that is no mistake.

    Class facts:
        preserves: whether the function is the same to rounding.
        after_training: whether it is made after training (a rewriting of the weights) or before (a setting).
    """

    seed: int = 0
    preserves: ClassVar[bool] = True
    after_training: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """The control's file name."""
        return type(self).__module__.rpartition(".")[2]

    def applied(self, case: Case) -> Case:
        """A copy of the case with the change.

        Raises:
            FaultError: the change does not apply to this case, or does not preserve its function as it should;
                says why.
        """
        copied = copy_of(case)
        anatomy = anatomy_of(copied)
        before = _output(copied) if self.preserves else None
        self.change(copied, anatomy)
        if before is not None:
            difference = float((_output(copied) - before).abs().max() / before.abs().max())
            if not difference <= ROUNDING:
                raise FaultError(
                    f"{self.name} does not apply to {case.name}: the output changes by {difference:.2g} of its largest "
                    "value, so the model does more with these weights than the change allows for"
                )
        return copied

    @abstractmethod
    def change(self, case: Case, anatomy: Anatomy) -> None:
        """Makes the change, in place; raises `FaultError` where it does not apply."""


def _output(case: Case) -> Tensor:
    """The model's numbers on its first batch, in eval mode; its random state and mode stay as they are."""
    with undisturbed(case.model, seed=0, train=False) as model, torch.no_grad():
        output = (case.forward or default_forward)(model, next(iter(case.batches)))
    found = output if isinstance(output, Tensor) else output.logits
    return found.detach().clone()
