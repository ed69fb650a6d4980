"""When the diagnosis looks: after training with the mistake in place, sooner, or at initialisation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_state = {"share": 1.0}


@contextmanager
def training_cut_to(share: float) -> Iterator[None]:
    """Inside, every case is trained for this share of its steps only; 0 looks at initialisation."""
    before = _state["share"]
    _state["share"] = share
    try:
        yield
    finally:
        _state["share"] = before


def training_share() -> float:
    """The share of its steps for which a case is trained at present."""
    return _state["share"]


def steps_of(steps: int) -> int:
    """How many training steps are taken where so many were asked for."""
    return round(steps * _state["share"])
