"""Two heads of a layer hold the same weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.anatomy.blocks import parse_place
from attnscope.diagnosis.rules import Evidence, Examination, Rule, Severity, Suspect


@dataclass(frozen=True)
class DuplicatedHeads(Rule):
    """Two heads of a layer hold the same weights, so they compute the same thing twice.

    **What it means** The query, key or value weights of two heads agree bit for bit: heads were tied, copied,
    or initialised from the same numbers.

    **Why it matters** The layer has fewer heads than it pays for. Equal heads receive nearly equal gradients
    and part slowly or never.

    **Evidence required** Equal matrices of two heads in the same role; or equal patterns with equal contexts
    that are not uniform.

    **When it is a false alarm** Grouped heads share keys and values by design; they are one key head here and
    not reported. Heads copied to widen a model are equal until it is trained.

    **How to confirm** Ablate one of the two: the effect is that of halving the other.

    **What to try** Initialise one of them anew.
    """

    code: ClassVar[str] = "PRJ304"
    severity: ClassVar[Severity] = Severity.WARNING
    needs: ClassVar[tuple[str, ...]] = ("duplicate_blocks", "head_similarity")
    alternatives: ClassVar[tuple[str, ...]] = (
        "heads were copied to widen the model",
        "grouped heads expanded to full heads",
    )
    remedies: ClassVar[tuple[str, ...]] = (
        "initialise one of the two heads anew",
        "look for the line that ties or copies heads",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per pair of heads."""
        weights = examination.reading("duplicate_blocks")
        patterns = examination.reading("head_similarity")
        roles: dict[tuple[int, int, int], list[str]] = {}
        for pair in weights.facts.get("heads", ()) if weights is not None else ():
            layer, first, letter = parse_place(str(pair["a"]))
            _, second, _ = parse_place(str(pair["b"]))
            if layer is not None and first is not None and second is not None:
                roles.setdefault((layer, first, second), []).append(letter)
        same = {
            (int(item["layer"]), int(item["heads"][0]), int(item["heads"][1]))
            for item in (patterns.facts.get("duplicates", ()) if patterns is not None else ())
            if item.get("same_context") and not item.get("uniform")
        }
        suspects = [
            _of_weights(layer, first, second, letters, (layer, first, second) in same)
            for (layer, first, second), letters in roles.items()
        ]
        return suspects + [_of_patterns(*key) for key in sorted(same - set(roles))]


def _of_weights(layer: int, first: int, second: int, letters: list[str], same_output: bool) -> Suspect:
    shown = ", ".join(letters)
    evidence = [
        Evidence(
            f"heads {first} and {second} of L{layer} agree bit for bit in {shown}",
            "duplicate_blocks",
            1.0,
            0.0,
            True,
        )
    ]
    if same_output:
        evidence.append(
            Evidence("their patterns and contexts are equal as well", "head_similarity", 1.0, None, True)
        )
    letter = letters[0]
    return Suspect(
        kind="duplicated_heads",
        place=f"L{layer}H{second}.{letter}",
        evidence=tuple(evidence),
        confidence=0.95,
        severity=Severity.ERROR if same_output or len(letters) > 1 else Severity.WARNING,
        summary=f"Heads {first} and {second} of L{layer} hold the same weights ({shown}).",
        effects=(
            f"L{layer}H{first}.{letter}",
            *(f"L{layer}H{head}.{other}" for other in letters[1:] for head in (first, second)),
        ),
    )


def _of_patterns(layer: int, first: int, second: int) -> Suspect:
    return Suspect(
        kind="duplicated_heads",
        place=f"L{layer}.heads",
        evidence=(
            Evidence(
                f"heads {first} and {second} of L{layer} have equal patterns and equal contexts, though their weights "
                "differ",
                "head_similarity",
                1.0,
                None,
                True,
            ),
        ),
        confidence=0.8,
        summary=f"Heads {first} and {second} of L{layer} compute the same thing.",
        effects=(f"L{layer}H{first}", f"L{layer}H{second}"),
    )
