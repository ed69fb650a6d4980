"""When the diagnosis looks: after training with the mistake in place, or at initialisation."""

from __future__ import annotations

_state = {"untrained": False}


def look_at_initialisation() -> None:
    """From now on no case is trained: only what holds exactly at once can be seen."""
    _state["untrained"] = True


def steps_of(steps: int) -> int:
    """How many training steps are taken where so many were asked for."""
    return 0 if _state["untrained"] else steps
