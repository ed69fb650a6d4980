"""Steps that the optimiser makes and something takes back."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import ClassVar

from attnscope.anatomy.blocks import Block, Role
from attnscope.diagnosis.rules import Evidence, Examination, Rule, Severity, Suspect
from attnscope.diagnosis.rules._evidence import by_block, shown

_MOVED = 1.0  # learning rates, root mean square: what one step may move
_BEHIND = 0.1  # of the median block
_ENOUGH_STEPS = 100  # a random walk of as many steps leads 10 learning rates away
_ENOUGH_FOR_NONE = 10
_ENOUGH_ENTRIES = 0.01  # share of a block that must have second moments to speak of
_FINE = ("float32", "float64")  # coarser weights swallow small steps


@dataclass(frozen=True)
class UpdatesUndone(Rule):
    """The optimiser steps on a block as on the others, and the block is where it was before training.

    **What it means** Its gradients have filled the optimiser's moments, and its weights are within a single step of the
    start: something writes old values back after each step. Usual causes are a fused or cached copy from before
    training that is loaded again, weights restored from a checkpoint in a hook, and a parameter that is set anew from
    another tensor in each forward pass.

    **Why it matters** The block keeps its initial weights and the rest learns around it; the loss looks normal.

    **Evidence required** An optimiser of Adam's kind, the weights before training, and at least 100 steps. A step of
    Adam moves an entry by about one learning rate. Gradients that are mere noise make a random walk, which leads
    sqrt(steps) learning rates away, so 10 or more; healthy blocks are seen at 0.6 sqrt(steps) and above. Steps of which
    a share s is taken back end (1 - s) / s of a step away: the block is within one learning rate (root mean square over
    the entries with second moments well above epsilon) and has moved less than a tenth as far as the median block. A
    warning; an error when the entries are the same bit for bit after 10 steps.

    **When it is a false alarm** The group's learning rate was zero until now. A learning rate that has been lowered
    makes movement look larger, and does not lead here. Frozen blocks have no moments.

    **How to confirm** Compare the weights before a step, right after it and before the next one.

    **What to try** Look for copy_, load_state_dict and `.data =` in hooks, callbacks and the forward pass.
    """

    code: ClassVar[str] = "GRD514"
    severity: ClassVar[Severity] = Severity.WARNING
    needs: ClassVar[tuple[str, ...]] = ("movement_in_steps", "zero_blocks")
    alternatives: ClassVar[tuple[str, ...]] = (
        "the learning rate of the group was zero until now",
        "the start that was given is not where this training began",
    )
    remedies: ClassVar[tuple[str, ...]] = (
        "look for copy_, load_state_dict and .data = in hooks, callbacks and the forward pass",
        "make fused or cached copies of weights anew after each step, or not at all in training",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per layer with such blocks."""
        reading = examination.reading("movement_in_steps")
        moved = by_block(reading)
        if reading is None or len(moved) < 3 or examination.precision not in _FINE:
            return []
        steps, share = reading.facts.get("steps", {}), reading.facts.get("share", {})
        usual = median(moved.values())
        zeros = examination.reading("zero_blocks")
        zero = () if zeros is None else zeros.facts.get("zero", ())  # what keeps them so is another rule's finding
        layers: dict[int | None, list[Block]] = {}
        for block in examination.anatomy.blocks:
            if block.name not in moved or not block.trainable or block.name in zero or block.role is Role.EMBEDDING:
                continue
            if share.get(block.name, 0.0) >= _ENOUGH_ENTRIES and _undone(
                moved[block.name], usual, steps.get(block.name, 0)
            ):
                layers.setdefault(block.layer, []).append(block)
        if 2 * sum(map(len, layers.values())) > len(moved):
            return []
        return [_suspect(blocks, moved, usual, steps[blocks[0].name]) for blocks in layers.values()]


def _undone(moved: float, usual: float, steps: int) -> bool:
    if moved == 0.0:
        return steps >= _ENOUGH_FOR_NONE and usual > 0
    return steps >= _ENOUGH_STEPS and moved < _MOVED and moved < _BEHIND * usual


def _suspect(blocks: list[Block], moved: dict[str, float], usual: float, steps: int) -> Suspect:
    names = [block.name for block in blocks]
    exact = moved[names[0]] == 0.0
    listed = " and ".join((", ".join(names[:-1]), names[-1])) if len(names) > 1 else names[0]
    where = "exactly where it was" if exact else f"{shown(moved[names[0]])} learning rates from where it was"
    return Suspect(
        kind="updates_undone",
        place=names[0],
        evidence=(
            Evidence(
                f"after {steps} steps with gradients {names[0]} is {where} before training",
                "movement_in_steps",
                moved[names[0]],
                usual,
                exact,
            ),
            Evidence(
                f"the median block has moved by {shown(usual)} learning rates",
                "movement_in_steps",
                usual,
            ),
        ),
        confidence=0.95 if exact else 0.9,
        severity=Severity.ERROR if exact else Severity.WARNING,
        score=usual - moved[names[0]],
        summary=f"The optimiser steps on {listed}, and something takes the steps back: after {steps} of them the "
        "weights are those from before training.",
        effects=(
            *names[1:],
            *(f"initial@{name}" for name in names),
            *(f"left_out_of_optimizer@{name}" for name in names),
        ),
    )
