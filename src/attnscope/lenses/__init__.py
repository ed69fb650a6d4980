"""Lens: measures one quantity at one moment. One lens a file; the file's name is the lens's name.

A lens is a frozen dataclass; its fields are its settings and become the reading's provenance. It disturbs
nothing: weights, gradients, mode, random state and hooks are as before (`Probe.evaluating` sees to it).
Numerical trouble is a status of the reading, never an exception.

Its docstring has a fixed form: one line to the user, then the sections **Measures**, **Reading it**,
**Shapes**, **Cost**, **Reference**.

A `RunLens` measures a whole run from what the record holds: same form, in the folder `over_runs`, which the
catalogue lists as the family `run_lenses`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from attnscope.anatomy.blocks import Anatomy
from attnscope.probe import Probe
from attnscope.readings import NOT_APPLICABLE, NOT_FINITE, OK, Label, Reading, missing
from attnscope.record import Run

LIGHT, STANDARD, DEEP = "light", "standard", "deep"
EFFORTS = (LIGHT, STANDARD, DEEP)


@dataclass(frozen=True)
class Lens(ABC):
    """Measures one quantity at one moment.

    Class facts:
        unit: of the values.
        dims: axes of the values; `layer`, `head`, `block`, `role`, `token`, `batch`, ...
        needs: what it uses: any of `pattern`, `gradient`, `loss`, `optimizer`, `hessian`, `weights`.
        effort: the least effort at which a diagnosis runs it.
    """

    unit: ClassVar[str]
    dims: ClassVar[tuple[str, ...]]
    needs: ClassVar[tuple[str, ...]] = ()
    effort: ClassVar[str] = LIGHT

    @property
    def name(self) -> str:
        """The lens's file name."""
        return type(self).__module__.rpartition(".")[2]

    def applies_to(self, anatomy: Anatomy) -> str:
        """Empty when the lens applies, else the reason why not."""
        if "pattern" in self.needs and not anatomy.attentions:
            return "the model has no attention"
        return ""

    @abstractmethod
    def measure(self, probe: Probe) -> Reading:
        """The reading of this lens at this moment."""

    def reading(
        self, values: Any, *, coords: dict[str, tuple[Label, ...]] | None = None, stderr: Any = None,
        note: str = "", facts: dict[str, Any] | None = None, step: int | None = None,
    ) -> Reading:
        """A reading of this lens; not finite (where a number was due) becomes a status."""
        array = np.asarray(values, dtype=np.float64)
        infinite = bool(np.isinf(array).any()) or (array.size > 0 and bool(np.isnan(array).all()))
        if infinite and not note:
            note = f"{int((~np.isfinite(array)).sum())} of {array.size} numbers are NaN or infinite"
        return Reading(
            lens=self.name, values=array, dims=self.dims, unit=self.unit, coords=coords or {},
            status=NOT_FINITE if infinite else OK, note=note, stderr=stderr, step=step,
            settings=asdict(self), facts=facts or {},
        )

    def not_applicable(self, why: str) -> Reading:
        """An empty reading that says why."""
        return missing(self.name, self.dims, self.unit, NOT_APPLICABLE, why, **asdict(self))


@dataclass(frozen=True)
class RunLens(ABC):
    """Measures one quantity of a whole run, from the readings that its record holds; it sees no model.

    Class facts:
        unit: of the values.
        dims: axes of the values; usually `step` first.
        needs: names of the lenses that must have been recorded.
    """

    unit: ClassVar[str]
    dims: ClassVar[tuple[str, ...]]
    needs: ClassVar[tuple[str, ...]] = ()

    @property
    def name(self) -> str:
        """The lens's file name."""
        return type(self).__module__.rpartition(".")[2]

    def applies_to(self, run: Run) -> str:
        """Empty when the run holds what the lens needs, else the reason why not."""
        lacking = [name for name in self.needs if name not in run.lenses]
        return f"the run has no reading of {', '.join(lacking)}; train with lenses={lacking}" if lacking else ""

    @abstractmethod
    def measure(self, run: Run) -> Reading:
        """The reading of this lens over the run."""

    def not_applicable(self, why: str) -> Reading:
        """An empty reading that says why."""
        return missing(self.name, self.dims, self.unit, NOT_APPLICABLE, why, **asdict(self))
