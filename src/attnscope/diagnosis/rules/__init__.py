"""Rule: what one kind of fault looks like through the lenses. One rule a file, named for the fault it recognises.

Codes are stable and never reused: MSK1xx masks, SFT2xx scores and softmax, PRJ3xx projections and heads,
POS4xx positions, GRD5xx gradients and updates, CRV6xx curvature and stability, DAT7xx data and loss,
CAP9xx quality of the capture.

A rule's docstring is its page, in a fixed form: one line that says what is wrong, then the sections
**What it means**, **Why it matters**, **Evidence required**, **When it is a false alarm**,
**How to confirm**, **What to try**. `explain`, `docs/rules/`, the report and SARIF are all made from it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from attnscope.anatomy.blocks import Anatomy
from attnscope.findings import Evidence, Severity, Suspect
from attnscope.readings import Reading

__all__ = ["Evidence", "Examination", "Rule", "Severity", "Suspect"]


@dataclass(frozen=True)
class Examination:
    """All that a rule may look at: what the trace saw, the readings, what the author expects. Plain data.

    Attributes:
        anatomy: from the trace.
        readings: lens name -> reading; a lens that did not run is absent.
        expects: stated and inferred expectations, as plain data (`causal`, `padding_token`, ...).
        inferred: which of them were inferred.
        precision: of the parameters: `float64`, `float32`, `bfloat16`, `float16`.
    """

    anatomy: Anatomy
    readings: Mapping[str, Reading] = field(default_factory=dict)
    expects: Mapping[str, Any] = field(default_factory=dict)
    inferred: tuple[str, ...] = ()
    precision: str = "float32"

    def reading(self, lens: str) -> Reading | None:
        """That lens's reading when it is there and means something, else None."""
        found = self.readings.get(lens)
        return found if found is not None and found.ok else None


@dataclass(frozen=True)
class Rule(ABC):
    """Recognises one kind of fault.

    Class facts:
        code: stable, such as `MSK101`.
        severity: of its findings, unless a suspect says otherwise.
        needs: lens names; the rule is asked when at least one of them has a reading (or when empty).
        symptom: whether its evidence is statistical and follows from nearly any mistake: beside a suspect of
            another kind that rests on an exact fact it is a consequence.
        alternatives: other causes that look alike.
        remedies: what to try, cheapest first.
    """

    code: ClassVar[str]
    severity: ClassVar[Severity] = Severity.ERROR
    needs: ClassVar[tuple[str, ...]] = ()
    symptom: ClassVar[bool] = False
    alternatives: ClassVar[tuple[str, ...]] = ()
    remedies: ClassVar[tuple[str, ...]] = ()

    @property
    def kind(self) -> str:
        """The rule's file name."""
        return type(self).__module__.rpartition(".")[2]

    @abstractmethod
    def weigh(self, examination: Examination) -> list[Suspect]:
        """The suspects of this kind; an empty list when all is well."""
