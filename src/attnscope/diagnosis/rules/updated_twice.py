"""The optimiser holds a parameter twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.diagnosis.rules import Evidence, Examination, Rule, Suspect
from attnscope.diagnosis.rules._evidence import block_with


@dataclass(frozen=True)
class UpdatedTwice(Rule):
    """The optimiser holds a parameter twice and makes each of its steps twice.

    **What it means** The parameter is listed in two groups, or twice in one. Tied weights that were collected under
    both names do it, and so do groups that were added to `param_groups` by hand: `add_param_group` refuses a
    parameter that a group holds already.

    **Why it matters** The second step uses the same gradient again: the block learns twice as fast, its moments
    decay twice as fast, and bias correction and weight decay are applied twice.

    **Evidence required** The parameter's identity occurs twice in the optimiser's groups. Where the optimiser
    counts steps, the count is given beside that of the median parameter.

    **When it is a false alarm** Never as a list of parameters; a second group with a learning rate of 0 does less
    harm.

    **How to confirm** Print `optimizer.state[parameter]["step"]` beside another parameter's.

    **What to try** Make the groups from `model.named_parameters()`, which gives tied parameters once.
    """

    code: ClassVar[str] = "GRD511"
    needs: ClassVar[tuple[str, ...]] = ("optimizer_coverage",)
    alternatives: ClassVar[tuple[str, ...]] = ("two groups on purpose, one of them with a learning rate of zero",)
    remedies: ClassVar[tuple[str, ...]] = (
        "make the groups from model.named_parameters(), which gives tied parameters once",
        "use optimizer.add_param_group, which refuses what a group holds already",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per block that is held twice."""
        reading = examination.reading("optimizer_coverage")
        if reading is None:
            return []
        steps = reading.facts.get("steps_of", {})
        by_block: dict[str, list[str]] = {}
        for name in reading.facts.get("twice", ()):
            by_block.setdefault(block_with(examination.anatomy, name), []).append(name)
        return [_suspect(block, names, steps) for block, names in by_block.items()]


def _suspect(block: str, names: list[str], steps: dict[str, int]) -> Suspect:
    held = f"the optimiser's groups hold {names[0]} more than once"
    evidence = [Evidence(held, "optimizer_coverage", 2.0, 1.0, True)]
    counted = [steps[name] for name in names if name in steps]
    if counted and max(counted) != steps["median"]:
        evidence.append(
            Evidence(
                f"it has counted {max(counted)} steps for it and {steps['median']} for the median parameter",
                "optimizer_coverage",
                float(max(counted)),
                float(steps["median"]),
                True,
            )
        )
    return Suspect(
        kind="updated_twice",
        place=block,
        evidence=tuple(evidence),
        confidence=0.98,
        score=float(len(names)),
        summary=f"The optimiser holds {block} twice and makes each of its steps twice.",
        effects=(f"learning_rate_out_of_line@{block}", f"beyond_stability_limit@{block}"),
    )
