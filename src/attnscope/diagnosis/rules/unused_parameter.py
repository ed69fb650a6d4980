"""A parameter that the output does not depend on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.anatomy.blocks import Anatomy, Source, parse_place, without_numbers
from attnscope.diagnosis.rules import Evidence, Examination, Rule, Severity, Suspect
from attnscope.diagnosis.rules._evidence import attention_of, block_with, first_source


@dataclass(frozen=True)
class UnusedParameter(Rule):
    """The output does not depend on a parameter: it is registered, trained perhaps, and never used.

    **What it means** No operation of the forward pass leads from this parameter to the output. A projection
    was bypassed, another one is used in its place, or a table is built and not looked up.

    **Why it matters** The model lacks what its author thinks it has, and weight decay slowly erases the rest.

    **Evidence required** The dispatch record holds no path from the parameter to any tensor of the output.

    **When it is a false alarm** Experts that were not chosen on this batch, heads of other tasks, poolers.

    **How to confirm** Fill the parameter with NaN: the output stays finite.

    **What to try** Look where its module is called, and with which name.
    """

    code: ClassVar[str] = "PRJ306"
    severity: ClassVar[Severity] = Severity.WARNING
    alternatives: ClassVar[tuple[str, ...]] = (
        "a branch that this batch does not take (an expert, the head of another task)",
    )
    remedies: ClassVar[tuple[str, ...]] = (
        "use the parameter where it belongs, or delete it",
        "check copied lines: the key is often made with the module of the query",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per module whose parameters lead nowhere."""
        anatomy = examination.anatomy
        modules: dict[str, list[str]] = {}
        for name in anatomy.unused:
            modules.setdefault(_pattern(name), []).append(name)
        return [_suspect(anatomy, names) for names in modules.values()]


def _pattern(name: str) -> str:
    """The parameter's module with the numbers left out: what a loop over layers leaves unused is one mistake."""
    return without_numbers(name.rpartition(".")[0])


def _suspect(anatomy: Anatomy, names: list[str]) -> Suspect:
    place = block_with(anatomy, names[0])
    layer, _, _ = parse_place(place)
    within = layer if layer is not None else _layer_of(anatomy, names[0])
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    where = f" in L{within}" if within is not None else ""
    return Suspect(
        kind="unused_parameter",
        place=place,
        evidence=(Evidence(f"no operation leads from {shown} to the output", "anatomy", exact=True),),
        confidence=0.9 if within is not None else 0.7,
        source=_source(anatomy, within),
        summary=f"The output does not depend on {shown}{where}.",
        effects=tuple(
            f"{kind}@{other}"
            for other in dict.fromkeys(block_with(anatomy, name) for name in names)
            for kind in ("cut_gradient", "zeroed_projection")
        ),
    )


def _layer_of(anatomy: Anatomy, name: str) -> int | None:
    """The attention whose module holds the parameter."""
    for attention in anatomy.attentions:
        if attention.module and name.startswith(f"{attention.module}."):
            return attention.layer
    return None


def _source(anatomy: Anatomy, layer: int | None) -> Source | None:
    attention = attention_of(anatomy, layer) if layer is not None else None
    return first_source(attention.score_step, attention.value_step) if attention else None
