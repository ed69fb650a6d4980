"""A projection, or a head's part of it, is all zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.anatomy.blocks import ATTENTION_ROLES, Block, Role, parse_place
from attnscope.diagnosis.rules import Evidence, Examination, Rule, Severity, Suspect
from attnscope.diagnosis.rules._evidence import block_named

_MAY_START_AT_ZERO = (Role.OUTPUT, Role.QUERY)  # residual branches and muP's queries do, in every layer alike


@dataclass(frozen=True)
class ZeroedProjection(Rule):
    """A projection of an attention (or a head's part of it) is all zero, so what it feeds is dead.

    **What it means** Zero values make the attention add nothing, and queries, keys and output projection get
    no gradient through it. Zero queries or keys make the pattern uniform. A zero output projection hides the
    attention from the rest.

    **Why it matters** The layer is there, costs time, and does nothing. Its neighbours look broken, too:
    their gradients are zero although nothing is wrong with them.

    **Evidence required** Every entry of the weight matrix is exactly zero (a bias may be left).

    **When it is a false alarm** Some models start output projections or queries at zero, in every layer, on
    purpose; before training that is a note. Pruned heads are zero on purpose.

    **How to confirm** Look at the weights, and at the dead gradients of its neighbours.

    **What to try** Initialise it, load its weights, or look for the line that overwrites it.
    """

    code: ClassVar[str] = "PRJ303"
    needs: ClassVar[tuple[str, ...]] = ("zero_blocks", "dead_gradient", "head_contribution", "initial_blocks")
    alternatives: ClassVar[tuple[str, ...]] = (
        "it starts at zero on purpose and has not been trained yet",
        "the head was pruned",
        "a key was missing when the weights were loaded",
    )
    remedies: ClassVar[tuple[str, ...]] = (
        "check that its weights were loaded: load_state_dict(strict=True) and the names of its keys",
        "initialise it anew, for example with nn.init.xavier_uniform_",
        "look for code that writes to it after each step",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per projection, and per head, that is zero."""
        reading = examination.reading("zero_blocks")
        if reading is None:
            return []
        names = [str(name) for name in reading.facts.get("zero", ())]
        blocks = [block for name in names if (block := block_named(examination.anatomy, name)) is not None]
        blocks = [block for block in blocks if block.role in ATTENTION_ROLES]
        whole = [block for block in blocks if block.head is None]
        covered = {block.name for block in whole}
        heads: dict[tuple[int | None, int | None], list[Block]] = {}
        for block in blocks:
            layer, head, letter = parse_place(block.name)
            if head is not None and f"L{layer}.{letter}" not in covered:
                heads.setdefault((layer, head), []).append(block)
        return [
            *(_of_projection(examination, block, whole) for block in whole),
            *(_of_head(examination, group) for group in heads.values()),
        ]


def _of_projection(examination: Examination, block: Block, whole: list[Block]) -> Suspect:
    by_design = _starts_at_zero(examination, block, whole)
    dead = _dead_neighbours(examination, block)
    evidence = [
        Evidence(
            f"all {block.numel} numbers of the weights of {block.name} are zero",
            "zero_blocks",
            1.0,
            0.0,
            True,
        )
    ]
    if dead:
        evidence.append(
            Evidence(f"{', '.join(dead)} get exactly no gradient", "dead_gradient", 0.0, None, True)
        )
    counter = []
    if by_design:
        counter.append(
            Evidence(
                f"the {block.role.value} is zero in every layer of a model at its initial state",
                "zero_blocks",
            )
        )
    return Suspect(
        kind="zeroed_projection",
        place=block.name,
        evidence=tuple(evidence),
        counter_evidence=tuple(counter),
        confidence=0.4 if by_design else 1.0,
        severity=Severity.NOTE if by_design else Severity.ERROR,
        summary=f"The {block.role.value} projection {block.name} is all zero: {_harm(block)}.",
        effects=(*dead, *_explained(block)),
    )


def _of_head(examination: Examination, blocks: list[Block]) -> Suspect:
    layer, head, _ = parse_place(blocks[0].name)
    roles = [block.role.value for block in blocks]
    dead = [name for block in blocks for name in _dead_neighbours(examination, block)]
    first = next((block for block in blocks if block.role is Role.VALUE), blocks[0])
    return Suspect(
        kind="zeroed_projection",
        place=first.name,
        evidence=(
            Evidence(
                f"the weights of head {head} of L{layer} are zero in: {', '.join(roles)}",
                "zero_blocks",
                1.0,
                0.0,
                True,
            ),
        ),
        confidence=0.9,
        severity=Severity.WARNING,
        summary=f"Head {head} of L{layer} is dead: its {' and '.join(roles)} weights are all zero.",
        effects=tuple(dict.fromkeys([*(block.name for block in blocks[1:]), *dead, f"*@L{layer}H{head}.*"])),
    )


def _starts_at_zero(examination: Examination, block: Block, whole: list[Block]) -> bool:
    """Whether it looks like a design: this role is zero in every layer, and the rest is as initialised."""
    if block.role not in _MAY_START_AT_ZERO:
        return False
    same_role = [other for other in examination.anatomy.blocks if other.role is block.role]
    if not all(any(zero.name == other.name for zero in whole) for other in same_role):
        return False
    initial = examination.reading("initial_blocks")
    names = set(initial.facts.get("initial", ())) if initial is not None else set()
    others = [
        other.name
        for other in examination.anatomy.blocks
        if other.role in (*ATTENTION_ROLES, Role.MLP) and other.name != block.name
    ]
    return bool(others) and sum(name in names for name in others) >= len(others) / 2


def _dead_neighbours(examination: Examination, block: Block) -> list[str]:
    """Other projections of the same attention that the reading found without gradient."""
    reading = examination.reading("dead_gradient")
    dead = [str(name) for name in (reading.facts.get("dead", ()) if reading is not None else ())]
    layer, head, _ = parse_place(block.name)
    return [name for name in dead if name != block.name and parse_place(name)[:2] == (layer, head)]


def _harm(block: Block) -> str:
    return {
        Role.VALUE: "the attention adds nothing, whatever it attends to",
        Role.OUTPUT: "nothing of the attention reaches the model",
        Role.QUERY: "every key gets the same score",
        Role.KEY: "every key gets the same score",
    }.get(block.role, "it does nothing")


def _explained(block: Block) -> tuple[str, ...]:
    """Kinds of trouble that a zero projection causes in its own layer."""
    kinds = (
        "uniform_attention",
        "altered_gradient",
        "cut_gradient",
        "gradient_underflow",
        "swapped_query_key",
        "duplicated_heads",
        "wrong_scale",
        "rank_collapse",
    )
    first = ("positions_constant@*",) if block.layer == 0 and block.role in (Role.VALUE, Role.OUTPUT) else ()
    return (*(f"{kind}@L{block.layer}.*" for kind in kinds), *first)
