"""The normalisation beside one attention has an epsilon so large that it no longer normalises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._surroundings import epsilon_of, norm_module


@dataclass(frozen=True)
class NormEpsilon(Fault):
    """Sets the epsilon of the first normalisation beside one attention.

    **Injects**: epsilon = strength (if that is more than it was).

    **Strength**: the epsilon itself; 1 halves the variance of a state of variance one.

    **Visible as**: states that keep their size, where others are normalised.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("norm_epsilon",)
    visibility: ClassVar[str] = "C"
    ids: ClassVar[tuple[str, ...]] = ("NCE",)
    severities: ClassVar[tuple[float, ...]] = (1e-4, 1e-2, 1.0)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a normalisation whose module holds its epsilon."""
        module = norm_module(case.model, anatomy, attention_of(anatomy, self.layer))
        if module is None:
            return "no normalisation stands beside this attention"
        return "" if epsilon_of(module) else "the normalisation's module holds no epsilon"

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Sets it."""
        module = norm_module(case.model, anatomy, attention_of(anatomy, self.layer))
        if module is not None:
            name = epsilon_of(module)
            setattr(module, name, max(float(getattr(module, name)), self.strength))

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The normalisation."""
        attention = attention_of(anatomy, self.layer)
        return (attention.norms[0], f"{attention.name}.norm")
