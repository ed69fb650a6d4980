"""Fault: an injectable mistake, with its label. One fault a file; the file's name is the fault's name.

A fault is a frozen dataclass. `inject` never changes the case it is given: it returns a copy (model,
optimiser, batches) that has the mistake, so taking it back is using the original again. `strength` 0 is the
identity, bit for bit; 1 is the mistake as people make it. A mistake in a parameter is written again after
each optimiser step (when the case has an optimiser), because training heals what was wrong only at the start.

`label` is the ground truth, from the healthy case: the kind, the places, and what may see it. The kind is the
fault's file name; `recognised_as` names the rules that should find it.

Its docstring has a fixed form: one line that says what is wrong, then **Injects**, **Strength**,
**Visible as**.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from attnscope.anatomy.blocks import Anatomy, Attention
from attnscope.anatomy.trace import trace
from attnscope.case import Case, default_forward
from attnscope.errors import AttnscopeError
from attnscope.findings import Label

__all__ = ["Fault", "FaultError", "attention_of"]


class FaultError(AttnscopeError):
    """The fault cannot be injected into this case; the message says why."""


@dataclass(frozen=True)
class Fault(ABC):
    """An injectable mistake.

    Attributes:
        strength: 0 is the identity, 1 the mistake as people make it.
        layer: which attention; negative numbers count from the last.
        seed: of whatever the fault draws at random.

    Class facts:
        recognised_as: the rules that should find it.
        visibility: C snapshot curvature or gradient, U update or trajectory, A attention statistics,
            I exact identity, B time or memory.
        ids: what catalogues of the literature call it, such as `SDS` (DEForm) or `H4`.
        severities: the strengths that stand for mild, usual and grave; one when it is there or not.
        layered: whether `layer` matters (a mistake in the embedding has no layer).
    """

    strength: float = 1.0
    layer: int = 0
    seed: int = 0
    recognised_as: ClassVar[tuple[str, ...]]
    visibility: ClassVar[str] = "I"
    ids: ClassVar[tuple[str, ...]] = ()
    severities: ClassVar[tuple[float, ...]] = (1.0,)
    layered: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """The fault's file name."""
        return type(self).__module__.rpartition(".")[2]

    def applies_to(self, case: Case) -> str:
        """Empty when the fault can be injected into the case, else the reason why not."""
        return self._reason_against(case, anatomy_of(case))

    def _reason_against(self, case: Case, anatomy: Anatomy) -> str:
        if not anatomy.attentions:
            return "the model has no attention"
        if not -len(anatomy.attentions) <= self.layer < len(anatomy.attentions):
            return f"the model has {len(anatomy.attentions)} attentions, so there is no layer {self.layer}"
        return self.obstacle(case, anatomy)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """What stands in the way of this very fault, or an empty string."""
        return ""

    def inject(self, case: Case) -> Case:
        """A copy of the case that has the mistake; the case itself stays as it is.

        Raises:
            FaultError: the fault does not apply to this case.
        """
        copied = copy_of(case)
        if self.strength == 0:
            return copied
        anatomy = anatomy_of(copied)
        reason = self._reason_against(copied, anatomy)
        if reason:
            raise FaultError(f"{self.name} cannot be injected into {case.name}: {reason}")
        self.plant(copied, anatomy)
        return copied

    def label(self, case: Case) -> Label:
        """The ground truth, given the healthy case."""
        return Label(kind=self.name, places=self.places(anatomy_of(case)), visibility=self.visibility)

    @abstractmethod
    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Puts the mistake into the case, in place."""

    @abstractmethod
    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The blocks and sites that it changes; naming any of them is right."""


def anatomy_of(case: Case) -> Anatomy:
    """Where the attention of the case's model is, on its first batch."""
    found: Anatomy = trace(case.model, next(iter(case.batches)), case.forward or default_forward)
    return found


def copy_of(case: Case) -> Case:
    """A copy that shares nothing that a fault may change.

    Model, optimiser and batches are copied together, so that the copied optimiser trains the copied model.
    """
    memo: dict[int, Any] = {}
    made = copy.copy(case)
    made.model = copy.deepcopy(case.model, memo)
    made.optimizer = copy.deepcopy(case.optimizer, memo)
    made.batches = copy.deepcopy(list(case.batches), memo)
    return made


def attention_of(anatomy: Anatomy, layer: int) -> Attention:
    """The attention of that number; negative numbers count from the last."""
    return anatomy.attentions[layer]
