"""One block learns far faster or slower than its neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.anatomy.blocks import Anatomy, Block
from attnscope.diagnosis.rules import Evidence, Examination, Rule, Severity, Suspect
from attnscope.diagnosis.rules._evidence import by_block, shown

_APART = 20.0  # layer-wise decay moves neighbours by 1.5, a fresh head by 10, LoRA+ by 16 (arXiv:2402.12354)


@dataclass(frozen=True)
class LearningRateOutOfLine(Rule):
    """The learning rate of one block is far from those of the blocks like it.

    **What it means** Its parameter group has a rate more than 20 times above or below that of the same
    projection in the neighbouring layers (or of the other projections of its layer, when there is one layer
    only).

    **Why it matters** Too fast, the block runs away and drags the rest; too slow, it is as good as frozen.

    **Evidence required** The ratio of the rates, to the neighbours and to the median block. Published schemes
    stay below: layer-wise decay moves neighbours by about 1.5, a fresh head learns 10 times faster, LoRA+ 16
    times.

    **When it is a false alarm** A layer that was added later and is to catch up.

    **How to confirm** Print `optimizer.param_groups`.

    **What to try** Put the block into the group of its neighbours.
    """

    code: ClassVar[str] = "GRD505"
    severity: ClassVar[Severity] = Severity.WARNING
    needs: ClassVar[tuple[str, ...]] = ("learning_rates", "update_to_weight")
    alternatives: ClassVar[tuple[str, ...]] = ("a layer that was added later and is to catch up",)
    remedies: ClassVar[tuple[str, ...]] = (
        "put the block into the parameter group of its neighbours",
        "check factors that are applied twice when groups are built",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per block whose rate is out of line."""
        rates = {
            name: rate for name, rate in by_block(examination.reading("learning_rates")).items() if rate > 0
        }
        anatomy = examination.anatomy
        suspects = []
        for block in anatomy.blocks:
            if block.name not in rates or block.layer is None:
                continue
            others = _neighbours(anatomy, block, rates)
            ratios = [rates[block.name] / rates[other] for other in others]
            if ratios and _beyond(rates[block.name], ratios):
                suspects.append(_suspect(examination, block, others[0], ratios[0]))
        return suspects


def _beyond(beside_median: float, ratios: list[float]) -> bool:
    """Whether a block is far from each of its neighbours, and they are not: the median tells which one is odd."""
    faster = min(ratios) > _APART and beside_median > _APART
    slower = max(ratios) < 1 / _APART and beside_median < 1 / _APART
    return faster or slower


def _neighbours(anatomy: Anatomy, block: Block, rates: dict[str, float]) -> list[str]:
    """The same role in the layers next to it; in a model of one layer, the other roles of the layer."""
    same = [
        other
        for other in anatomy.blocks
        if other.role is block.role
        and other.layer is not None
        and other.layer != block.layer
        and other.name in rates
    ]
    if same:
        nearest = min(abs((other.layer or 0) - (block.layer or 0)) for other in same)
        return [other.name for other in same if abs((other.layer or 0) - (block.layer or 0)) == nearest]
    return [
        other.name
        for other in anatomy.blocks
        if other.layer == block.layer and other.name != block.name and other.name in rates
    ]


def _suspect(examination: Examination, block: Block, other: str, ratio: float) -> Suspect:
    faster = ratio > 1
    factor = ratio if faster else 1 / ratio
    word = "faster" if faster else "slower"
    evidence = [
        Evidence(
            f"the learning rate of {block.name} is {shown(ratio)} times that of {other}",
            "learning_rates",
            ratio,
            1.0,
            True,
        )
    ]
    updates = by_block(examination.reading("update_to_weight"))
    if block.name in updates:
        evidence.append(
            Evidence(
                f"one step moves it by {shown(updates[block.name])} of its size",
                "update_to_weight",
                updates[block.name],
            )
        )
    return Suspect(
        kind="learning_rate_out_of_line",
        place=block.name,
        evidence=tuple(evidence),
        confidence=0.85,
        score=factor,
        summary=f"{block.name} learns {shown(factor)} times {word} than {other}.",
        effects=(
            f"beyond_stability_limit@{block.name}",
            *(f"{kind}@L{block.layer}.*" for kind in ("saturated_scores", "decay_eats_rank", "updates_undone")),
        ),
    )
