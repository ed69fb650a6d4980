"""One layer's block has a weight decay of its own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from attnscope.anatomy.blocks import Anatomy, Block
from attnscope.diagnosis.rules import Evidence, Examination, Rule, Severity, Suspect
from attnscope.diagnosis.rules._evidence import shown

_FAR = 5.0  # tuned decays differ by less between groups; below it the difference is noted, no more


@dataclass(frozen=True)
class WeightDecayOutOfLine(Rule):
    """The weight decay of one block differs from that of its counterparts in all other layers.

    **What it means** The parameter group that holds it has another `weight_decay`, while the blocks at the same place
    of the other layers agree. A name that a filter of groups misses (or catches by accident) does it.

    **Why it matters** Decay pulls the block to zero at a rate that nothing else in the stack sees: a gain that should
    stay near one fades, a feed-forward network falls silent.

    **Evidence required** The decay in the optimiser's groups, beside that of at least one other layer; all other layers
    agree. No decay for biases and norms in all layers alike, a decay that changes from layer to layer, and a whole
    layer with a decay of its own are plans and not reported. A warning when it is more than 5 times off (or the others
    have none), else a note.

    **When it is a false alarm** One block is regularised more on purpose.

    **How to confirm** Print `optimizer.param_groups`.

    **What to try** Put the block into the group of its counterparts.
    """

    code: ClassVar[str] = "GRD512"
    severity: ClassVar[Severity] = Severity.WARNING
    needs: ClassVar[tuple[str, ...]] = ("learning_rates",)
    alternatives: ClassVar[tuple[str, ...]] = ("one block is regularised more on purpose",)
    remedies: ClassVar[tuple[str, ...]] = (
        "put the block into the parameter group of its counterparts in the other layers",
        "check the names by which the groups are chosen",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per block whose decay is out of line."""
        reading = examination.reading("learning_rates")
        decays = {} if reading is None else dict(reading.facts.get("weight_decay", {}))
        decays = {name: float(value) for name, value in decays.items() if value == value and value >= 0}
        anatomy = examination.anatomy
        odd = {
            block.name: others
            for block in anatomy.blocks
            if block.name in decays and (others := _others(anatomy, block, decays))
        }
        return [
            _suspect(block, decays[block.name], odd[block.name], decays[odd[block.name][0]])
            for block in anatomy.blocks
            if block.name in odd and not _whole_layer(anatomy, block, decays, set(odd))
        ]


def _others(anatomy: Anatomy, block: Block, decays: dict[str, float]) -> list[str]:
    """The counterparts in the other layers when they agree and this block does not; else nothing."""
    if block.layer is None or not block.trainable or block.shared_by:
        return []
    others = [
        other.name
        for other in anatomy.blocks
        if other.name in decays
        and other.name != block.name
        and other.role is block.role
        and other.layer not in (None, block.layer)
        and other.trainable
        and _place(other.name) == _place(block.name)
    ]
    values = {decays[name] for name in others}
    if len(values) != 1 or decays[block.name] in values:
        return []
    if len(others) == 1:  # of two that differ, the odd one is that which the rest of the model does not follow
        alike = sum(value in values for value in decays.values())
        return others if 2 * alike > len(decays) else []
    return others


def _place(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def _whole_layer(anatomy: Anatomy, block: Block, decays: dict[str, float], odd: set[str]) -> bool:
    """Whether everything in the block's layer has a decay of its own: that is a group per layer, made on purpose."""
    layer = [other.name for other in anatomy.blocks if other.layer == block.layer and other.name in decays]
    return len(layer) > 1 and odd.issuperset(layer)


def _suspect(block: Block, decay: float, others: list[str], usual: float) -> Suspect:
    low, high = sorted((decay, usual))
    far = low == 0 or high / low >= _FAR
    return Suspect(
        kind="weight_decay_out_of_line",
        place=block.name,
        evidence=(
            Evidence(
                f"the weight decay of {block.name} is {shown(decay)}, that of its {len(others)} counterparts in the "
                f"other layers {shown(usual)}",
                "learning_rates",
                decay,
                usual,
                True,
            ),
        ),
        confidence=0.85 if far else 0.6,
        severity=Severity.WARNING if far else Severity.NOTE,
        score=decay,
        summary=f"{block.name} has a weight decay of {shown(decay)}; its counterparts in the other layers have "
        f"{shown(usual)}.",
        effects=(f"norm_gain@{block.name}", f"decay_eats_rank@{block.name}"),
    )
