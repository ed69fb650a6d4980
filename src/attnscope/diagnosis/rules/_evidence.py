"""What rules read alike: a reading's numbers by layer, tolerances from the precision, the author's expectations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from attnscope.anatomy.blocks import Anatomy, Attention, Block, Form, Kind, Source, Step, without_numbers
from attnscope.diagnosis.rules import Examination
from attnscope.readings import Reading

EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23, "bfloat16": 2.0**-7, "float16": 2.0**-10}
LARGEST = {"float64": 1.8e308, "float32": 3.4e38, "bfloat16": 3.39e38, "float16": 65504.0}


def epsilon(examination: Examination) -> float:
    """The relative spacing of numbers in the model's precision."""
    return EPSILON.get(examination.precision, EPSILON["float32"])


def by_layer(reading: Reading | None) -> dict[int, npt.NDArray[np.float64]]:
    """Layer -> the values of its heads (those that exist), from a reading over (layer, head) or (layer)."""
    if reading is None or "layer" not in reading.dims:
        return {}
    found = {}
    for index, layer in enumerate(reading.labels("layer")):
        row = np.atleast_1d(np.take(reading.values, index, axis=reading.dims.index("layer"))).ravel()
        found[int(layer)] = row[~np.isnan(row)]
    return {layer: row for layer, row in found.items() if row.size}


def layer_fact(reading: Reading | None, name: str, layer: int) -> Any:
    """The entry of a per-layer fact (a list in the order of the reading's layers, or a mapping); None if absent."""
    if reading is None:
        return None
    fact = reading.facts.get(name)
    if isinstance(fact, Mapping):
        return fact.get(layer, fact.get(str(layer)))
    if not isinstance(fact, list | tuple) or "layer" not in reading.dims:
        return None
    layers = [int(label) for label in reading.labels("layer")]
    return fact[layers.index(layer)] if layer in layers and layers.index(layer) < len(fact) else None


def by_block(reading: Reading | None) -> dict[str, float]:
    """Block name -> value, for a reading over (block); blocks without a value are left out."""
    if reading is None or reading.dims != ("block",):
        return {}
    return {
        str(name): float(value)
        for name, value in zip(reading.labels("block"), reading.values, strict=True)
        if not np.isnan(value)
    }


def expects_causal(examination: Examination, attention: Attention) -> bool | None:
    """Whether a position of this attention must not see the future; None when nobody said and nothing tells."""
    if attention.kind is not Kind.SELF or attention.n_queries < 2:
        return None
    stated = examination.expects.get("causal")
    if isinstance(stated, Mapping):
        value = stated.get(attention.layer, stated.get(str(attention.layer)))
        return None if value is None else bool(value)
    return None if stated is None else bool(stated)


def first_source(*steps: Step | None) -> Source | None:
    """The user's line of the first step that has one."""
    return next((step.source for step in steps if step is not None and step.source is not None), None)


def attention_of(anatomy: Anatomy, layer: int) -> Attention | None:
    """The attention of that number."""
    return next((item for item in anatomy.attentions if item.layer == layer), None)


def stack_of(attention: Attention) -> str:
    """The stack that an attention belongs to: its module path with the numbers left out."""
    return without_numbers(attention.module)


def peers_of(anatomy: Anatomy, attention: Attention) -> list[Attention]:
    """The other attentions of the same stack and kind: built by the same code, so they should agree."""
    return [
        other
        for other in anatomy.attentions
        if other.layer != attention.layer
        and stack_of(other) == stack_of(attention)
        and (other.kind, other.module_class) == (attention.kind, attention.module_class)
    ]


def lost_activation(anatomy: Anatomy, attention: Attention) -> list[Attention]:
    """The other learned queries of its class, when all of them score by a network and this one linearly."""
    others = [
        other
        for other in anatomy.attentions
        if other.layer != attention.layer
        and other.kind is Kind.LEARNED_QUERY
        and other.module_class == attention.module_class
    ]
    linear = attention.kind is Kind.LEARNED_QUERY and attention.form in (Form.DOT_PRODUCT, Form.LINEAR_QUERY)
    return others if linear and all(other.form in (Form.ADDITIVE, Form.POOLED) for other in others) else []


def block_with(anatomy: Anatomy, parameter: str) -> str:
    """The block that holds a parameter; the parameter's own name when no block does."""
    for block in anatomy.blocks:
        if any(piece.parameter == parameter for piece in block.slices):
            return block.name
    return parameter


def shown(value: float) -> str:
    """A number for a sentence."""
    return f"{value:.0f}" if 1e3 <= abs(value) < 1e6 else f"{value:.3g}"


def block_named(anatomy: Anatomy, name: str) -> Block | None:
    """The block of that name, a head's block included; None when there is none."""
    try:
        return anatomy.block(name)
    except KeyError:
        return None


def all_initial(examination: Examination, names: list[str]) -> bool:
    """Whether all of these blocks cannot be told from a standard initialisation; False when nobody looked."""
    reading = examination.reading("initial_blocks")
    initial = set(reading.facts.get("initial", ())) if reading is not None else set()
    return bool(names) and all(name in initial for name in names)


def source_from(text: object, line: object = "") -> Source | None:
    """The source that a lens wrote as `file:line`; None when it wrote none."""
    file, _, number = str(text or "").rpartition(":")
    return Source(file, int(number), text=str(line or "")) if file and number.isdigit() else None


def layer_of_module(anatomy: Anatomy, module: str) -> Attention | None:
    """The attention that a module computes, or lies in."""
    for attention in anatomy.attentions:
        if attention.module and (module == attention.module or module.startswith(f"{attention.module}.")):
            return attention
    return None
