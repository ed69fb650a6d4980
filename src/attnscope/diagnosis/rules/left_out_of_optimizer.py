"""A block that does not train while the rest does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.anatomy.blocks import ATTENTION_ROLES, Anatomy, Block
from attnscope.diagnosis.rules import Evidence, Examination, Rule, Severity, Suspect
from attnscope.diagnosis.rules._evidence import by_block, shown

_MINORITY = (
    0.5  # when the optimiser leaves out more than this of the model, training a part of it is the plan
)


@dataclass(frozen=True)
class LeftOutOfOptimizer(Rule):
    """A block asks for a gradient, and the optimiser does not move it while the rest trains.

    **What it means** Its parameters are missing from the optimiser's groups, or their learning rate is zero.
    Usual causes are an optimiser that was made before a module was replaced, and groups chosen by name.

    **Why it matters** The block keeps its initial weights and the rest learns around it; the loss looks
    normal.

    **Evidence required** Parameters with `requires_grad=True` that no group of the optimiser holds, while it
    holds most of the model; or a step on trial that moves other blocks and not this one, although it has a
    gradient. `requires_grad=False` is a choice: one block frozen within a layer that trains is a note, a
    frozen backbone and adapters are not reported.

    **When it is a false alarm** A second optimiser trains the block.

    **How to confirm** Compare the block before and after one step.

    **What to try** Make the optimiser from `model.parameters()`, after the model is complete.
    """

    code: ClassVar[str] = "GRD503"
    needs: ClassVar[tuple[str, ...]] = ("optimizer_coverage", "update_to_weight")
    alternatives: ClassVar[tuple[str, ...]] = (
        "a second optimiser trains this block",
        "the block is frozen on purpose",
    )
    remedies: ClassVar[tuple[str, ...]] = (
        "make the optimiser from model.parameters(), after all modules are in place",
        "check the names by which the groups are chosen",
        "if it is meant to be frozen, say so: requires_grad_(False)",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect for what is left out, one for what stands still, notes for odd frozen blocks."""
        return [*_missing(examination), *_still(examination), *_frozen(examination)]


def _missing(examination: Examination) -> list[Suspect]:
    reading = examination.reading("optimizer_coverage")
    if reading is None or reading.facts.get("optimizer") is None:
        return []
    anatomy = examination.anatomy
    covered = by_block(reading)
    left_out = [block for block in anatomy.blocks if covered.get(block.name, 1.0) < 1.0]
    total = sum(block.numel for block in anatomy.blocks if block.name in covered)
    foreign = int(reading.facts.get("n_foreign", 0) or 0)
    lost = sum(block.numel * (1 - covered[block.name]) for block in left_out)
    if not left_out or not total or (lost > _MINORITY * total and not foreign):
        return []
    names = [
        block.name
        for block in sorted(left_out, key=lambda block: (block.role not in ATTENTION_ROLES, block.layer or 0))
    ]
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    evidence = [
        Evidence(
            f"the optimiser holds {shown(100 * (1 - lost / total))} % of the trainable numbers, and none or part of "
            f"{', '.join(names[:4])}{more}",
            "optimizer_coverage",
            1 - lost / total,
            1.0,
            True,
        )
    ]
    if foreign:
        evidence.append(
            Evidence(
                f"it holds {foreign} tensors that are not the model's",
                "optimizer_coverage",
                float(foreign),
                0.0,
                True,
            )
        )
    return [
        Suspect(
            kind="left_out_of_optimizer",
            place=names[0],
            evidence=tuple(evidence),
            confidence=0.95,
            summary=f"The optimiser does not hold {', '.join(names[:4])}{more}, which asks for a gradient.",
            effects=(*names[1:], *(f"initial@{name}" for name in names)),
        )
    ]


def _still(examination: Examination) -> list[Suspect]:
    """Blocks with a gradient that a step does not move, although the optimiser holds them."""
    reading, coverage = (
        examination.reading("update_to_weight"),
        by_block(examination.reading("optimizer_coverage")),
    )
    if reading is None:
        return []
    still = [str(name) for name in reading.facts.get("still", ())]
    moving = [name for name, value in by_block(reading).items() if value > 0]
    held = [
        name
        for name in still
        if coverage.get(name, 0.0) == 1.0
        and _block(examination.anatomy, name)
        and not _zero(examination, name)
    ]
    if not held or len(held) > len(moving):
        return []
    return [
        Suspect(
            kind="left_out_of_optimizer",
            place=held[0],
            evidence=(
                Evidence(
                    f"a step on trial moves {len(moving)} blocks and not {', '.join(held[:4])}",
                    "update_to_weight",
                    0.0,
                    None,
                    True,
                ),
            ),
            confidence=0.85,
            severity=Severity.WARNING,
            summary=f"{held[0]} has a gradient and does not move in a step: its learning rate is zero or something "
            "writes its old values back.",
            effects=tuple(held[1:]),
        )
    ]


def _block(anatomy: Anatomy, name: str) -> Block | None:
    return next((block for block in anatomy.blocks if block.name == name and block.trainable), None)


def _zero(examination: Examination, name: str) -> bool:
    """Whether the block is all zero: what keeps it so is another rule's finding."""
    reading = examination.reading("zero_blocks")
    return reading is not None and name in reading.facts.get("zero", ())


def _frozen(examination: Examination) -> list[Suspect]:
    """A lone frozen projection in a layer that trains, whose counterparts in other layers train: a note."""
    anatomy = examination.anatomy
    suspects = []
    for block in anatomy.blocks:
        if block.trainable or block.role not in ATTENTION_ROLES or block.layer is None:
            continue
        peers = [
            other
            for other in anatomy.blocks
            if other.role is block.role and other.name != block.name and other.layer is not None
        ]
        beside = [
            other for other in anatomy.blocks if other.layer == block.layer and other.role in ATTENTION_ROLES
        ]
        if (
            any(other.trainable for other in peers)
            and sum(other.trainable for other in beside) >= len(beside) / 2
        ):
            suspects.append(
                Suspect(
                    kind="left_out_of_optimizer",
                    place=block.name,
                    confidence=0.5,
                    severity=Severity.NOTE,
                    evidence=(
                        Evidence(
                            f"{block.name} has requires_grad=False, its counterparts do not",
                            "anatomy",
                            exact=True,
                        ),
                    ),
                    summary=f"{block.name} is frozen (requires_grad=False) while the rest of its layer trains.",
                )
            )
    return suspects
