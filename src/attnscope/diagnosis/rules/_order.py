"""Whether the model can tell the order of its tokens, as the rules about positions read it."""

from __future__ import annotations

from typing import Any

from attnscope.anatomy.blocks import Anatomy, Role
from attnscope.diagnosis.rules import Examination
from attnscope.diagnosis.rules._evidence import shown
from attnscope.readings import Reading


def blind_to_order(examination: Examination, reading: Reading) -> tuple[bool, str]:
    """Whether order leaves no trace, and the sentence that says so."""
    moved, tolerance = _number(reading.facts.get("moved")), _number(reading.facts.get("tolerance"))
    first = _number(reading.facts.get("first_attention_moved"))
    if _number(reading.facts.get("between_examples")) <= tolerance:
        return False, ""  # the output is the same whatever is put in: that is another mistake than blindness to order
    if moved == moved and moved <= tolerance:
        return True, f"with its tokens in another order the output moves by {shown(moved)}, which is rounding"
    causal = any(item.causal_source for item in examination.anatomy.attentions)
    if causal and first == first and first <= tolerance:
        return True, (
            f"with its tokens in another order the first attention moves by {shown(first)}, which is rounding: only "
            "the causal mask tells deeper layers about order"
        )
    return False, ""


def too_coarse(examination: Examination) -> bool:
    """Whether the precision is too low to tell a small effect of order from rounding."""
    return examination.precision in ("bfloat16", "float16")


def position_blocks_in_use(anatomy: Anatomy) -> list[str]:
    """Tables of positions that the output depends on."""
    unused = set(anatomy.unused)
    return [
        block.name
        for block in anatomy.blocks
        if block.role is Role.POSITIONS and any(piece.parameter not in unused for piece in block.slices)
    ]


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float | str) else float("nan")
