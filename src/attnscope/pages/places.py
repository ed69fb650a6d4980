"""Which entries of a reading speak of which place of the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from attnscope.anatomy.blocks import ROLE_LETTERS, parse_place
from attnscope.formats.model_map import home
from attnscope.readings import Reading

_LETTERS = {role.value: letter for role, letter in ROLE_LETTERS.items()}
Index = tuple[int, ...]
PARTS = {"layer", "head", "role", "block", "site"}


def entries(reading: Reading) -> Iterator[tuple[str, Index]]:
    """Every entry that speaks of one place, with the place: `("L2H5", (2, 5))`.

    A reading with any other dim (step, token, a second block) has none: no single number of it belongs
    to a place.
    """
    if not set(reading.dims) <= PARTS or not reading.dims:
        return
    labels = [reading.labels(dim) for dim in reading.dims]
    for index in np.ndindex(*reading.values.shape):
        if not np.isnan(reading.values[index]):
            where = {dim: labels[axis][index[axis]] for axis, dim in enumerate(reading.dims)}
            name = _place(where)
            if name:
                yield name, index


def by_place(readings: Mapping[str, Reading]) -> dict[str, list[tuple[str, Index]]]:
    """Place -> the entries that speak of it; a place of a head's projection also counts for the head."""
    found: dict[str, list[tuple[str, Index]]] = {}
    for name, reading in readings.items():
        for place, index in entries(reading):
            for key in dict.fromkeys((place, home(place)[0])):
                found.setdefault(key, []).append((name, index))
    return found


def grouped(reading: Reading) -> dict[str, list[Index]]:
    """Place -> the entries of one reading that speak of it."""
    found: dict[str, list[Index]] = {}
    for name, index in entries(reading):
        found.setdefault(name, []).append(index)
    return found


def touching(found: Mapping[str, list[Index]], place: str) -> tuple[str, list[Index]]:
    """The entries that bear on a place, and what they speak of.

    Its own entries; else those of the nearest place that holds it (the head of a projection, then the
    layer); else, for a site or a layer, those of the heads and projections within it.

    Args:
        found: the entries of one reading by place, from `grouped`.
        place: a block or a site.
    """
    layer, head, what = parse_place(place)
    holders = [place]
    if layer is not None:
        holders += [f"L{layer}H{head}"] if head is not None else []
        holders += [f"L{layer}.{what}"] if what and head is not None else []
        holders.append(f"L{layer}")
    for name in holders:
        if name in found:
            return name, found[name]
    if layer is None or head is not None:
        return "", []
    within = [index for name, indices in found.items() if _inside(name, layer, what) for index in indices]
    return f"the heads and projections of L{layer}", within


def _inside(name: str, layer: int, what: str) -> bool:
    """Whether a finer place lies inside a layer, or inside the projection `what` of it."""
    own, head, part = parse_place(name)
    if own != layer:
        return False
    return part == what if what in _LETTERS.values() else head is not None or part in _LETTERS.values()


def _place(where: Mapping[str, object]) -> str:
    block = where.get("block")
    if block is not None:
        return str(block)
    layer, head, role, site = (where.get(name) for name in ("layer", "head", "role", "site"))
    number = str(layer).removeprefix("L")
    if layer is None or not number.isdigit():
        return ""
    place = f"L{number}" if head is None else f"L{number}H{head}"
    if role is not None:
        letter = _LETTERS.get(str(role), str(role))
        return f"{place}.{letter}"
    return place if site is None else f"{place}.{site}"


