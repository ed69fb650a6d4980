"""A part of a table, a classifier, a convolution or a network is exactly zero in a trained model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from attnscope.anatomy.blocks import Block, Role
from attnscope.diagnosis.rules import Evidence, Examination, Rule, Severity, Suspect
from attnscope.diagnosis.rules._evidence import block_named

_FOLLOWS = ("labels_without_signal@*", "altered_gradient@*", "cut_gradient@*", "head_rank_collapsed@*")


@dataclass(frozen=True)
class ZeroedWeights(Rule):
    """Rows, columns or slices of a weight are exactly zero although they have been trained.

    **What it means** Something sets these numbers to zero after each step (code that overwrites them, a mask), or a
    whole feed-forward network was filled with zeros and can never leave them. Tokens with a zero row cannot be told
    apart, a class with a zero row gets the same score for every input, a kernel with zero slices does not see them.

    **Why it matters** That part of the model holds nothing and learns nothing.

    **Evidence required** Whole lines of a weight are exactly zero, and the optimiser's memory says that gradients
    have reached and moved them; or every matrix of a feed-forward network is zero, so that none gets a gradient.
    Without an optimiser, rows of tokens that occur in the batches: a warning.

    **When it is a false alarm** Rows that are pruned and set back to zero after each step on purpose. Padding rows,
    tokens never seen, weights that start at zero and have not been trained, and scattered pruning are not reported.

    **How to confirm** Print those rows before and after one step of the optimiser.

    **What to try** Look for the line that writes to the weight; initialise what was added to it.
    """

    code: ClassVar[str] = "PRJ310"
    needs: ClassVar[tuple[str, ...]] = ("zero_lines", "zero_blocks")
    alternatives: ClassVar[tuple[str, ...]] = (
        "the rows were pruned on purpose and are kept at zero",
        "tokens or classes were added without initialisation",
    )
    remedies: ClassVar[tuple[str, ...]] = (
        "look for code that writes to the weight after each step",
        "initialise the rows that were added, for example with the mean of the others",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per weight with zero lines, and per network that is all zero."""
        reading = examination.reading("zero_lines")
        lines = reading.facts.get("lines", ()) if reading is not None else ()
        suspects = []
        for line in lines:
            block = block_named(examination.anatomy, str(line["block"]))
            if block is not None:
                suspects.append(_of_lines(block, line))
        return [*suspects, *_networks(examination)]


def _of_lines(block: Block, line: Mapping[str, Any]) -> Suspect:
    exact = bool(line["updated"])
    what = _what(block, line)
    why = "although the optimiser has moved them" if exact else "although these tokens occur"
    shown = ", ".join(map(str, line["indices"])) + (", ..." if line["count"] > len(line["indices"]) else "")
    said = f"{what} of {line['parameter']} are exactly zero, {why}"
    return Suspect(
        kind="zeroed_weights",
        place=block.name,
        evidence=(
            Evidence(f"{said} (numbers {shown})", "zero_lines", float(line["count"]), 0.0, exact),
        ),
        confidence=0.97 if exact else 0.7,
        severity=Severity.ERROR if exact else Severity.WARNING,
        summary=f"{said[0].upper()}{said[1:]}: {_harm(block, line)}.",
        effects=_FOLLOWS if exact else (),
    )


def _what(block: Block, line: Mapping[str, Any]) -> str:
    if line["whole"]:
        return f"all {line['of']} lines"
    axes = list(line["axes"])
    name = {(0,): "rows", (1,): "columns"}.get(tuple(axes), "slices")
    return f"{line['count']} of {line['of']} {name}"


def _harm(block: Block, line: Mapping[str, Any]) -> str:
    rows = list(line["axes"]) == [0]
    if block.role is Role.EMBEDDING:
        return "these tokens cannot be told apart" if rows else "no token uses these dimensions"
    if block.role is Role.CLASSIFIER and rows:
        return "these classes get the same score for every input"
    return "what they would read or give is lost"


def _networks(examination: Examination) -> list[Suspect]:
    """Feed-forward networks whose every matrix is zero: none of them can ever get a gradient."""
    reading = examination.reading("zero_blocks")
    zero = set(map(str, reading.facts.get("zero", ()))) if reading is not None else set()
    layers: dict[int, list[Block]] = {}
    for block in examination.anatomy.blocks:
        if block.role is Role.MLP and block.layer is not None and _n_matrices(block):
            layers.setdefault(block.layer, []).append(block)
    dead = [
        blocks
        for blocks in layers.values()
        if all(block.name in zero for block in blocks) and sum(map(_n_matrices, blocks)) > 1
    ]
    if len(dead) == len(layers) and len(layers) > 1:
        return []  # every network of the model: a design, or a model whose weights were not loaded
    trained = examination.reading("zero_lines")
    moved = trained is not None and bool(trained.facts.get("steps_known"))
    return [_network(blocks, moved) for blocks in dead]


def _n_matrices(block: Block) -> int:
    return sum(len(piece.shape) >= 2 for piece in block.slices)


def _network(blocks: list[Block], moved: bool) -> Suspect:
    names = [block.name for block in blocks]
    said = f"all weights of {', '.join(names)} are zero, so none of them gets a gradient"
    return Suspect(
        kind="zeroed_weights",
        place=names[0],
        evidence=(Evidence(said, "zero_blocks", 1.0, 0.0, True),),
        confidence=0.97 if moved else 0.8,
        severity=Severity.ERROR if moved else Severity.WARNING,
        summary=f"The feed-forward network of L{blocks[0].layer} does nothing and cannot learn: {said}.",
        effects=(*names[1:], names[0], f"altered_gradient@L{blocks[0].layer}*", "labels_without_signal@*"),
    )
