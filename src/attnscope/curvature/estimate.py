"""Estimate: a number with its standard error, and running sums that make one."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A mean of independent samples.

    Attributes:
        value: the mean.
        stderr: its standard error; 0 when the value is exact, NaN when one sample tells no spread.
        n: number of samples; 0 when the value is exact.
    """

    value: float
    stderr: float
    n: int = 0

    @property
    def relative(self) -> float:
        """Standard error over size; NaN for 0 +- 0."""
        if self.value:
            return self.stderr / abs(self.value)
        return math.inf if self.stderr > 0 else math.nan

    def root(self) -> Estimate:
        """The square root, for squared norms; its standard error to first order (delta method)."""
        value = math.sqrt(max(self.value, 0.0))
        stderr = self.stderr / (2 * value) if value else (0.0 if self.stderr == 0 else math.nan)
        return Estimate(value, stderr, self.n)


def exactly(value: float) -> Estimate:
    """An estimate without error."""
    return Estimate(value, 0.0, 0)


@dataclass
class Sums:
    """Running sums of samples (Welford), from which an `Estimate` is made at any time."""

    n: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, sample: float) -> None:
        """Takes one more sample."""
        self.n += 1
        step = sample - self.mean
        self.mean += step / self.n
        self.squares += step * (sample - self.mean)

    def merged(self, other: Sums) -> Sums:
        """The sums of both samples together."""
        n = self.n + other.n
        if not self.n or not other.n:
            return Sums(n, self.mean if self.n else other.mean, self.squares + other.squares)
        gap = other.mean - self.mean
        return Sums(
            n, self.mean + gap * other.n / n, self.squares + other.squares + gap**2 * self.n * other.n / n
        )

    def estimate(self) -> Estimate:
        """The mean so far."""
        if self.n == 0:
            return Estimate(math.nan, math.nan, 0)
        spread = self.squares / (self.n - 1) if self.n > 1 else math.nan
        return Estimate(self.mean, math.sqrt(spread / self.n), self.n)
