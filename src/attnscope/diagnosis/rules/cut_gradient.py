"""A block on which the loss depends gets no gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from attnscope.anatomy.blocks import Anatomy, Block
from attnscope.diagnosis.rules import Evidence, Examination, Rule, Suspect
from attnscope.diagnosis.rules._evidence import attention_of, block_named, shown, source_from
from attnscope.readings import Reading


@dataclass(frozen=True)
class CutGradient(Rule):
    """The loss depends on a block, and no gradient reaches it: the graph is cut.

    **What it means** Somewhere between this block and the loss a tensor leaves the graph: `detach`,
    `no_grad`, `.data`, `.item()`, a conversion to numpy, or a rounding.

    **Why it matters** The block keeps its initial weights for ever, and the rest learns around it.

    **Evidence required** The block's gradient is exactly zero, although the loss changes when its numbers are
    changed. Frozen blocks (`requires_grad=False`) are a choice and are left out.

    **When it is a false alarm** A gradient that is stopped on purpose: a target network, a teacher, a
    quantiser with its own rule. State it by `requires_grad_(False)`.

    **How to confirm** `torch.autograd.grad(loss, parameter, allow_unused=True)` gives None or zeros.

    **What to try** Look at the line that is named, or search the path for `detach` and `no_grad`.
    """

    code: ClassVar[str] = "GRD501"
    needs: ClassVar[tuple[str, ...]] = ("dead_gradient",)
    alternatives: ClassVar[tuple[str, ...]] = (
        "a gradient that is stopped on purpose (a target network, a teacher)",
        "a rounding or an argmax, through which no gradient can flow",
    )
    remedies: ClassVar[tuple[str, ...]] = (
        "remove detach(), no_grad() or .data on the way from this block to the loss",
        "for roundings use a straight-through estimator",
        "if it is meant, say so: requires_grad_(False)",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per block that is cut off."""
        reading = examination.reading("dead_gradient")
        if reading is None:
            return []
        cut = [str(name) for name, state in dict(reading.facts.get("state", {})).items() if state == "cut"]
        blocks = [block for name in cut if (block := block_named(examination.anatomy, name)) is not None]
        return [_suspect(examination.anatomy, block, reading) for block in blocks if block.trainable]


def _suspect(anatomy: Anatomy, block: Block, reading: Reading) -> Suspect:
    moved = reading.at(block=block.name)
    step = _cut(anatomy, block, list(reading.facts.get("cuts", ())))
    where = f" The graph is cut by {step['op']} in {step['module'] or 'the model'}." if step else ""
    return Suspect(
        kind="cut_gradient",
        place=block.name,
        evidence=(
            Evidence(f"the gradient of {block.name} is exactly zero", "dead_gradient", 0.0, None, True),
            Evidence(
                f"the loss moves by {shown(moved)} of itself when its numbers are changed",
                "dead_gradient",
                moved,
                0.0,
                True,
            ),
        ),
        confidence=0.95,
        source=source_from(step.get("source"), step.get("text")) if step else None,
        summary=f"No gradient reaches {block.name}, although the loss depends on it.{where}",
        effects=(f"altered_gradient@L{block.layer}.*",) if block.layer is not None else (),
    )


def _cut(anatomy: Anatomy, block: Block, cuts: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The operation that most likely cuts this block off: one in its own module, else in its attention, else any."""
    names = [piece.parameter.rpartition(".")[0] for piece in block.slices]
    attention = attention_of(anatomy, block.layer) if block.layer is not None else None
    wanted = [
        *names,
        *(name.rpartition(".")[0] for name in names),
        *([attention.module] if attention else []),
    ]
    for module in wanted:
        for cut in cuts:
            if str(cut.get("module", "")) == module:
                return cut
    return cuts[0] if len(cuts) == 1 else {}
