"""Weights that the model uses and does not own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from attnscope.anatomy.blocks import Anatomy
from attnscope.diagnosis.rules import Evidence, Examination, Rule, Suspect
from attnscope.diagnosis.rules._evidence import first_source, layer_of_module


@dataclass(frozen=True)
class UnregisteredParameter(Rule):
    """The model uses weights that are not among its parameters, so no optimiser will ever see them.

    **What it means** Layers stand in a plain list instead of an `nn.ModuleList`, or a tensor is no
    `nn.Parameter`. `parameters()` and `state_dict()` do not hold them.

    **Why it matters** They keep their initial values, are not saved, and do not move to the GPU.

    **Evidence required** Modules with parameters hang in a plain list, tuple or dictionary of the model; or
    the loss is differentiated through a tensor that is not among the parameters.

    **When it is a false alarm** Modules that are kept unregistered on purpose, such as a frozen teacher.

    **How to confirm** Look for their names in `dict(model.named_parameters())`.

    **What to try** `nn.ModuleList`, `nn.ModuleDict`, `nn.Parameter`.
    """

    code: ClassVar[str] = "GRD504"
    needs: ClassVar[tuple[str, ...]] = ("mode_flags", "optimizer_coverage")
    alternatives: ClassVar[tuple[str, ...]] = (
        "a frozen model that is kept out of the parameters on purpose",
    )
    remedies: ClassVar[tuple[str, ...]] = (
        "put the layers into an nn.ModuleList or nn.ModuleDict",
        "wrap the tensor in nn.Parameter, or register_buffer when it is not to be trained",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect for modules in plain containers, one per loose tensor."""
        flags, coverage = examination.reading("mode_flags"), examination.reading("optimizer_coverage")
        modules = list(flags.facts.get("unregistered", ())) if flags is not None else []
        tensors = list(coverage.facts.get("unregistered", ())) if coverage is not None else []
        if modules:
            return [_of_modules(examination.anatomy, str(modules[0]["module"]), len(modules), tensors)]
        return [_of_tensor(examination.anatomy, item) for item in tensors]


def _of_modules(anatomy: Anatomy, first: str, count: int, tensors: list[dict[str, Any]]) -> Suspect:
    homeless = next((item for item in anatomy.attentions if not item.blocks), None)
    evidence = [
        Evidence(
            f"{count} modules, {first} the first of them, hang in a plain container",
            "mode_flags",
            float(count),
            0.0,
            True,
        )
    ]
    if tensors:
        evidence.append(
            Evidence(
                f"the loss is differentiated through {len(tensors)} tensors that are no parameters of the model",
                "optimizer_coverage",
                float(len(tensors)),
                0.0,
                True,
            )
        )
    return Suspect(
        kind="unregistered_parameter",
        place=homeless.name if homeless is not None else "model",
        evidence=tuple(evidence),
        confidence=0.95,
        source=first_source(homeless.score_step) if homeless is not None else None,
        summary=f"{first} and {count - 1} more modules hang in a plain container: parameters() does not hold them.",
        effects=("unused_parameter@*", "left_out_of_optimizer@*"),
    )


def _of_tensor(anatomy: Anatomy, item: dict[str, Any]) -> Suspect:
    name = str(item.get("name") or "a tensor without a name")
    attention = layer_of_module(anatomy, name)
    return Suspect(
        kind="unregistered_parameter",
        place=attention.site("scores") if attention is not None else "model",
        evidence=(
            Evidence(
                f"the loss is differentiated through {name} {item.get('shape')}, which is no parameter of the model",
                "optimizer_coverage",
                1.0,
                0.0,
                True,
            ),
        ),
        confidence=0.95,
        source=first_source(attention.score_step, attention.softmax) if attention is not None else None,
        summary=f"{name} asks for a gradient and is no registered parameter: no optimiser sees it, nothing saves it.",
    )
