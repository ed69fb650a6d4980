"""How much may be spent, and whether the user has asked to stop."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

USUAL, SECONDS = 300.0, 60.0  # gradients; a small model's gradients are so short that time counts


class Allowance:
    """A budget in gradients, measured as time on the wall.

    Inside a `with`, the first Ctrl-C only asks to stop, so that the product under way is finished and all that
    is known is consistent; the second interrupts as usual.

    Args:
        gradients: the budget; None is 300 gradients or a minute, whichever is more.
        spent: what earlier runs spent, in gradients.

    Attributes:
        seconds_per_gradient: to be set once it is known; before, nothing counts as spent.
        asked: whether the user asked to stop.
    """

    def __init__(self, gradients: float | None, spent: float = 0.0) -> None:
        self.seconds_per_gradient = 0.0
        self._gradients = gradients
        self.asked = False
        self._before = spent
        self._start = time.perf_counter()
        self._old: Any = None

    def __enter__(self) -> Allowance:
        if threading.current_thread() is threading.main_thread():
            self._old = signal.signal(signal.SIGINT, self._interrupted)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._old is not None:
            signal.signal(signal.SIGINT, self._old)

    @property
    def gradients(self) -> float:
        """The budget, in gradients."""
        if self._gradients is not None:
            return self._gradients
        return max(USUAL, SECONDS / self.seconds_per_gradient) if self.seconds_per_gradient else USUAL

    @property
    def here(self) -> float:
        """What this run has spent, in gradients."""
        if not self.seconds_per_gradient:
            return 0.0
        return (time.perf_counter() - self._start) / self.seconds_per_gradient

    @property
    def spent(self) -> float:
        """What all runs have spent, in gradients."""
        return self._before + self.here

    def seconds_until(self, share: float) -> float:
        """Seconds until this share of the budget is spent; never negative."""
        return max(share * self.gradients - self.here, 0.0) * self.seconds_per_gradient

    def over(self, share: float = 1.0) -> bool:
        """Whether this share of the budget is spent, or the user asked to stop."""
        return self.asked or self.here >= share * self.gradients

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
