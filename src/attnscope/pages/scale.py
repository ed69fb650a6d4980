"""From numbers to colours and positions: linear, logarithmic, or diverging around zero."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LEVELS = 9
LINEAR, LOG, DIVERGING = "linear", "log", "diverging"
LOG_FROM = 200.0


@dataclass(frozen=True)
class Scale:
    """Where a number lies between the smallest and the largest.

    Attributes:
        low, high: the range, without what is not finite.
        form: `linear`, `log` (all positive and far apart) or `diverging` (both signs; zero is the middle).
    """

    low: float
    high: float
    form: str = LINEAR

    @classmethod
    def of(cls, values: npt.NDArray[np.float64], *, zero: bool = False) -> Scale:
        """The scale that suits these values.

        Args:
            values: of any shape; NaN and infinities are left out.
            zero: whether the range must hold zero (for lengths that start there).
        """
        finite = values[np.isfinite(values)]
        if not finite.size:
            return cls(0.0, 1.0)
        low, high = float(finite.min()), float(finite.max())
        if low < 0 < high:
            bound = max(-low, high)
            return cls(-bound, bound, DIVERGING)
        if low > 0 and high / low >= LOG_FROM:
            return cls(low, high, LOG)
        if zero:
            low, high = min(low, 0.0), max(high, 0.0)
        return cls(low, high)

    @property
    def _half(self) -> float:
        """Half the range: the whole of it may be larger than the largest float."""
        return self.high / 2 - self.low / 2

    def at(self, value: float) -> float:
        """The place of a value, 0 at the low end and 1 at the high end."""
        if self._half <= 0:
            return 0.0 if self.form == LINEAR else 0.5
        if self.form == LOG:
            if value <= 0:
                return 0.0
            low = math.log(self.low)
            share = (math.log(value) - low) / (math.log(self.high) - low)
        else:
            share = (value / 2 - self.low / 2) / self._half
        return min(max(share, 0.0), 1.0)

    def level(self, value: float) -> str:
        """The colour class of a value: `q0` to `q8`, `d0` to `d8` when diverging, `qi` for infinities."""
        if math.isinf(value):
            return "qi"
        level = min(int(self.at(value) * LEVELS), LEVELS - 1)
        return f"{'d' if self.form == DIVERGING else 'q'}{level}"

    def ticks(self, wanted: int = 4) -> list[float]:
        """Round numbers inside the range."""
        if self._half <= 0:
            return [self.low]
        if self.form == LOG:
            first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            if last < first:
                return [self.low, self.high]
            stride = max(1, math.ceil((last - first + 1) / wanted))
            return [10.0**power for power in range(first, last + 1, stride)]
        step = nice(2 * self._half / wanted)
        if not math.isfinite(step) or self.low + step in (self.low, math.inf) or self.high - step == self.high:
            return [self.low, self.high]  # the range is at the edge of what floats can hold
        first_tick = math.ceil(self.low / step - 1e-9) * step
        count = int((self.high - first_tick) / step + 1e-9) + 1
        ticks = [first_tick + step * i for i in range(count)]
        return [0.0 if abs(tick) < step * 1e-9 else tick for tick in ticks]

    @property
    def words(self) -> str:
        """How the scale runs, for a legend."""
        return {LINEAR: "", LOG: "logarithmic scale", DIVERGING: "zero in the middle"}[self.form]


def nice(step: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten."""
    if step <= 0 or not math.isfinite(step):
        return 1.0
    power = 10.0 ** math.floor(math.log10(step))
    for factor in (1.0, 2.0, 2.5, 5.0):
        if factor * power >= step * (1 - 1e-9):
            return factor * power
    return 10.0 * power
