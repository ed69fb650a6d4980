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

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import anatomy_of, copy_of

__all__ = ["Control"]


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
            FaultError: the change does not apply to this case; says why.
        """
        copied = copy_of(case)
        self.change(copied, anatomy_of(copied))
        return copied

    @abstractmethod
    def change(self, case: Case, anatomy: Anatomy) -> None:
        """Makes the change, in place; raises `FaultError` where it does not apply."""
