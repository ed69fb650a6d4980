"""Flat indices and coordinates."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor


def coordinates_of(flat: Tensor, shape: Sequence[int]) -> tuple[Tensor, ...]:
    """The coordinates of flat indices in a tensor of some shape; negative indices count as the first element."""
    flat = flat.clamp(min=0)
    found = []
    for axis, size in enumerate(shape):
        stride = math.prod(shape[axis + 1:])
        steps = flat if stride == 1 else flat.div(stride, rounding_mode="floor")
        found.append(steps if axis == 0 else steps.remainder(size))
    return tuple(found)
