"""A projection is applied transposed in one layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.anatomy.blocks import Attention, ParameterSlice, Role, block_name
from attnscope.diagnosis.rules import Evidence, Examination, Rule, Severity, Suspect
from attnscope.diagnosis.rules._evidence import block_named, peers_of

_NEEDED = 2  # one other layer does not tell which of the two is the odd one


@dataclass(frozen=True)
class TransposedProjection(Rule):
    """One layer multiplies with a square weight matrix the other way round than its siblings do.

    **What it means** The heads lie along the rows of this weight and along the columns of the same weight in
    every other layer of the stack. A square matrix fits both ways, so nothing complains. Usual causes are a
    loader that transposes one name too many, and `x @ W` where the siblings compute `x @ W.T`.

    **Why it matters** Weights that were trained the right way round compute something else; a weight that was
    trained transposed is broken by the first tool that takes it for its siblings' kind.

    **Evidence required** The trace sees the weight's axes exchanged, and at least two other layers of the same
    class, with a weight of the same name and shape, that all agree with one another.

    **When it is a false alarm** A layer that stores its weight transposed on purpose, under the same name.

    **How to confirm** Transpose the weight in the checkpoint and compare the loss.

    **What to try** Apply the projection as the other layers do.
    """

    code: ClassVar[str] = "PRJ320"
    severity: ClassVar[Severity] = Severity.WARNING
    alternatives: ClassVar[tuple[str, ...]] = ("this layer stores its weight transposed, on purpose",)
    remedies: ClassVar[tuple[str, ...]] = (
        "apply the projection as the other layers of the stack do",
        "check which weights the loader transposes",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per projection whose axes are exchanged against those of all its siblings."""
        suspects = []
        for attention in examination.anatomy.attentions:
            peers = peers_of(examination.anatomy, attention)
            for role in attention.head_slices:
                own = _matrix(attention, role)
                others = [_matrix(other, role) for other in peers]
                if own is None or len(others) < _NEEDED or None in others:
                    continue
                axes = {other.dim for other in others if other is not None}
                alike = all(other is not None and _alike(own, other) for other in others)
                if alike and len(axes) == 1 and own.dim not in axes:
                    suspects.append(_suspect(examination, attention, role, own, len(others)))
        return suspects


def _matrix(attention: Attention, role: str) -> ParameterSlice | None:
    """The first head's part of a square weight; None where heads are not cut out of one along an axis."""
    heads = attention.head_slices.get(role, ())
    piece = heads[0][0] if len(heads) > 1 and heads[0] else None
    square = piece is not None and len(piece.shape) >= 2 and piece.shape[0] == piece.shape[1]
    return piece if square and piece is not None and piece.dim in (0, 1) else None


def _alike(own: ParameterSlice, other: ParameterSlice) -> bool:
    names = {piece.parameter.rpartition(".")[2] for piece in (own, other)}
    return len(names) == 1 and own.shape == other.shape


def _suspect(
    examination: Examination, attention: Attention, role: str, own: ParameterSlice, n_others: int
) -> Suspect:
    place = attention.blocks.get(role, block_name(attention.layer, Role(role)))
    block = block_named(examination.anatomy, place)
    axis = ("rows", "columns")[own.dim or 0]
    other = ("rows", "columns")[1 - (own.dim or 0)]
    return Suspect(
        kind="transposed_projection",
        place=place,
        evidence=(
            Evidence(
                f"the heads lie along the {axis} of {own.parameter}, and along the {other} of the same weight in "
                f"the {n_others} other layers",
                "anatomy",
                exact=True,
            ),
        ),
        confidence=0.85,
        source=block.source if block is not None else None,
        summary=f"{place} is applied transposed: the {n_others} other layers of the stack use the same square "
        "weight the other way round.",
    )
