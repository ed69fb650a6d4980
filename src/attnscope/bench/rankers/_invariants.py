"""Readings of blocks that no rewriting of the same function changes: products, and what a pair of projections shares.

Queries times c with keys over c, values times c with output over c: a gradient falls as its weights grow, so their
product stays; what a query gains its key loses, so their geometric mean stays. Readings of one block that such
rewriting moves tell mistakes from conventions no better than chance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from attnscope.bench.rankers._readings import Reader, by_block
from attnscope.bench.row import Row

PARTNERS = {"query": "key", "key": "query", "value": "output", "output": "value"}


def weighed(lens: str, power: int = 1) -> Reader:
    """A reading that falls with the size of the weights, times that size to a power."""
    read, size = by_block(lens), by_block("weight_norm")

    def product(row: Row) -> Mapping[str, float]:
        sizes = size(row)
        return {block: value * sizes[block] ** power for block, value in read(row).items() if block in sizes}

    return product


def shared(lens: str) -> Reader:
    """A reading in which projections that may be rescaled against each other have their geometric mean.

    Rescaling makes nothing zero, so where either is zero each keeps its own.
    """
    read = by_block(lens)

    def mean(row: Row) -> Mapping[str, float]:
        values, partners = read(row), partner_of(row)
        found = dict(values)
        for block in found.keys() & partners.keys():
            product = abs(values[block] * values[partners[block]])
            if product != 0:
                found[block] = math.sqrt(product)
        return found

    return mean


def partner_of(row: Row) -> dict[str, str]:
    """Query and key of a layer, value and output: block -> the other of the two."""
    at = {
        (layer, role): block
        for block, role, layer in zip(row.blocks, row.roles, row.layers, strict=True)
        if layer >= 0
    }
    return {
        block: at[layer, PARTNERS[role]]
        for (layer, role), block in at.items()
        if role in PARTNERS and (layer, PARTNERS[role]) in at
    }


def without_values(lens: str) -> Reader:
    """A reading of outputs: `shared`, but values have what the output projection makes of them."""
    read, mean = by_block(lens), shared(lens)

    def outputs(row: Row) -> Mapping[str, float]:
        values, partners = dict(mean(row)), partner_of(row)
        own = read(row)
        for block, role in zip(row.blocks, row.roles, strict=True):
            if role in ("value", "output") and block in partners and block in own:
                values[block] = own[block if role == "output" else partners[block]]
        return values

    return outputs
