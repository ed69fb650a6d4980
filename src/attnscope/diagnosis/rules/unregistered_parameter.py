"""Weights that the model uses and does not own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from attnscope.anatomy.blocks import Anatomy, Attention
from attnscope.diagnosis.rules import Evidence, Examination, Rule, Suspect
from attnscope.diagnosis.rules._evidence import first_source


@dataclass(frozen=True)
class UnregisteredParameter(Rule):
    """The model uses weights that are not among its parameters, so no optimiser will ever see them.

    **What it means** Layers stand in a plain list instead of an `nn.ModuleList`, or a tensor is no
    `nn.Parameter`. `parameters()` and `state_dict()` do not hold them.

    **Why it matters** They keep their initial values, are not saved, and do not move to the GPU.

    **Evidence required** Modules with parameters hang in a plain list, tuple or dictionary of the model; or an
    attention computes with a tensor that asks for a gradient and is not registered.

    **When it is a false alarm** Modules that are kept unregistered on purpose, such as a frozen teacher.

    **How to confirm** Look for their names in `dict(model.named_parameters())`.

    **What to try** `nn.ModuleList`, `nn.ModuleDict`, `nn.Parameter`.
    """

    code: ClassVar[str] = "GRD504"
    needs: ClassVar[tuple[str, ...]] = ("mode_flags",)
    alternatives: ClassVar[tuple[str, ...]] = ("a frozen model that is kept out of the parameters on purpose",)
    remedies: ClassVar[tuple[str, ...]] = (
        "put the layers into an nn.ModuleList or nn.ModuleDict",
        "wrap the tensor in nn.Parameter, or register_buffer when it is not to be trained",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect for the list of modules, one per attention that uses a loose tensor."""
        reading = examination.reading("mode_flags")
        modules: list[dict[str, Any]] = list(reading.facts.get("unregistered", ())) if reading is not None else []
        suspects = [_of_modules(examination.anatomy, modules)] if modules else []
        for attention in examination.anatomy.attentions:
            loose = [why for why in attention.unresolved if "not a registered parameter" in why]
            if loose and not modules:
                suspects.append(_of_tensor(attention, loose[0]))
        return suspects


def _of_modules(anatomy: Anatomy, modules: list[dict[str, Any]]) -> Suspect:
    name = str(modules[0]["module"])
    first = next((item for item in anatomy.attentions), None)
    inside = first is not None and ("query" not in first.blocks or not first.blocks)
    return Suspect(
        kind="unregistered_parameter", place=f"L{first.layer}" if first is not None and inside else "model",
        evidence=(
            Evidence(f"{len(modules)} modules, the first of them {name}, hang in a plain container", "mode_flags",
                     float(len(modules)), 0.0, True),
        ),
        confidence=0.95, source=first_source(first.score_step) if first is not None and inside else None,
        summary=f"{name} and {len(modules) - 1} more modules are used but not registered: no optimiser sees them.",
        effects=("unused_parameter@*", "left_out_of_optimizer@*"),
    )


def _of_tensor(attention: Attention, why: str) -> Suspect:
    return Suspect(
        kind="unregistered_parameter", place=attention.site("scores"), evidence=(Evidence(why, "anatomy", exact=True),),
        confidence=0.9, source=first_source(attention.score_step, attention.softmax),
        summary=f"L{attention.layer} computes with a tensor that is not registered: {why}.",
    )
