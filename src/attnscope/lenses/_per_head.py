"""From one row of numbers per layer to a reading over (layer, head)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from attnscope.lenses import Lens
from attnscope.probe import Probe
from attnscope.readings import NOT_FINITE, Reading


def heads_reading(
    lens: Lens, probe: Probe, per_layer: Sequence[Tensor | None], *, why_none: str,
    facts: Mapping[str, Any] | None = None, note: str = "",
) -> Reading:
    """A reading over (layer, head), padded with NaN where a layer has fewer heads.

    A layer to which the quantity does not apply (`None`) is NaN too. A head that exists and whose number is
    not finite makes the reading `not_finite`, with the first such head in the note: no rule may compare it.

    Args:
        lens: whose reading it is.
        probe: where the layers and the step come from.
        per_layer: one vector per attention, one number per head, in the order of `anatomy.attentions`.
        why_none: the reason given when the lens applies to no layer at all.
        facts: further plain data.
        note: one sentence; replaced when numbers are not finite.
    """
    layers = [attention.layer for attention in probe.anatomy.attentions]
    if all(row is None for row in per_layer):
        return lens.not_applicable(why_none)
    width = max(row.numel() for row in per_layer if row is not None)
    values = np.full((len(per_layer), width), np.nan)
    broken: list[tuple[int, int]] = []
    for position, row in enumerate(per_layer):
        if row is None:
            continue
        numbers = row.detach().double().cpu().numpy()
        values[position, : len(numbers)] = numbers
        broken += [(layers[position], int(head)) for head in np.flatnonzero(~np.isfinite(numbers))]
    reading = lens.reading(
        values, coords={"layer": tuple(layers), "head": tuple(range(width))}, note=note, step=probe.step,
        facts=dict(facts or {}),
    )
    if broken:
        layer, head = broken[0]
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        where = f"not finite at L{layer}H{head}{more}: NaN or infinity reached it"
        return replace(reading, status=NOT_FINITE, note=where)
    return reading


def nested(per_layer: Sequence[Tensor | None]) -> list[list[float] | None]:
    """The same numbers as plain nested lists, for facts: `[layer][head]`, None where it does not apply."""
    return [None if row is None else row.detach().double().cpu().tolist() for row in per_layer]
