"""What the page's script reads: readings, lenses and places as JSON that cannot leave its element."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from attnscope.anatomy.blocks import ROLE_LETTERS, Anatomy, Attention, Block, Role
from attnscope.findings import Diagnosis
from attnscope.formats.files import where
from attnscope.formats.tree import steps
from attnscope.pages.lens_notes import lens_note
from attnscope.pages.places import by_place
from attnscope.pages.prose import clipped
from attnscope.plain import plain, printable
from attnscope.readings import Reading

MOST_VALUES, MOST_HEADS = 6400, 1500
About = dict[str, list[list[str]]]


def page_data(diagnosis: Diagnosis, *, lean: bool = False) -> dict[str, Any]:
    """Everything the script shows on demand.

    Args:
        diagnosis: what was found.
        lean: leaves out values of large readings and the parameters of heads, for very large models.
    """
    names = list(diagnosis.readings)
    numbers = {name: number for number, name in enumerate(names)}
    most = 400 if lean else MOST_VALUES
    kept = {name: reading for name, reading in diagnosis.readings.items() if reading.values.size <= most}
    spoken = {
        place: [[numbers[name], _flat(diagnosis.readings[name], index)] for name, index in entries]
        for place, entries in by_place(kept).items()
    }
    data = {
        "readings": [_reading(diagnosis.readings[name], most) for name in names],
        "places": spoken,
        "about": _about(diagnosis.anatomy, heads=not lean),
    }
    return clean(data)  # type: ignore[no-any-return]


def script_json(data: Any) -> str:
    """JSON for a `<script type="application/json">`: no `<`, `>`, `&` and no line separator is left in it."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def clean(value: Any) -> Any:
    """The same data; text only prints and has a bounded length."""
    if isinstance(value, str):
        return clipped(printable(value))
    if isinstance(value, Mapping):
        return {clean(str(key)): clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    return value


def _reading(reading: Reading, most: int) -> dict[str, Any]:
    note = lens_note(reading.lens)
    kept = reading.values.size <= most
    return {
        "t": note.title, "line": note.line, "measures": note.measures, "how": note.reading_it,
        "u": "" if reading.unit == "1" else reading.unit, "d": list(reading.dims),
        "l": [list(reading.labels(dim)) for dim in reading.dims] if kept else [],
        "v": [_rounded(value) for value in reading.values.reshape(-1)] if kept else None,
        "e": [_rounded(value) for value in reading.stderr.reshape(-1)]
        if kept and reading.stderr is not None else None,
        "settings": ", ".join(f"{key} = {value}" for key, value in plain(dict(reading.settings)).items()),
        "note": reading.note,
    }


def _rounded(value: float) -> float | str | None:
    """Four digits that matter; null for what is not there, a word for what is not finite."""
    number = float(value)
    if math.isnan(number):
        return None
    if math.isinf(number):
        return "infinite" if number > 0 else "minus infinite"
    return float(f"{number:.4g}")


def _flat(reading: Reading, index: tuple[int, ...]) -> int:
    return int(np.ravel_multi_index(index, reading.values.shape))


def _about(anatomy: Anatomy, *, heads: bool) -> About:
    """Place -> rows of label, words, source, code: what stands there, whether or not anything is wrong."""
    blocks = {block.name: block for block in anatomy.blocks}
    about: About = {block.name: _block_rows(block) for block in anatomy.blocks}
    n_heads = sum(attention.n_heads for attention in anatomy.attentions)
    for attention in anatomy.attentions:
        about[attention.name] = _layer_rows(attention)
        for label, said, step in steps(attention):
            source = step.source if step is not None else None
            place = where(source) if source else ""
            row = [label, said, place, source.text.strip() if source else ""]
            about.setdefault(f"{attention.name}.{label}", []).append(row)
        for role, name in attention.blocks.items():
            letter = ROLE_LETTERS.get(Role(role), role)
            if name in blocks:
                about[f"{attention.name}.{letter}"] = _block_rows(blocks[name])
        for block in anatomy.blocks:
            if block.role is Role.MLP and attention.layer in (block.shared_by or (block.layer,)):
                about.setdefault(f"{attention.name}.mlp", []).extend(_block_rows(block))
        if heads and n_heads <= MOST_HEADS:
            _head_rows(attention, about)
    return about


def _block_rows(block: Block) -> list[list[str]]:
    facts = f"{block.numel:,} parameters{'' if block.trainable else ', frozen'}"
    return [[block.role.value.replace("_", " and "), facts, "", ""],
            *(["parameter", f"{part}  {list(part.shape)}", "", ""] for part in block.slices)]


def _layer_rows(attention: Attention) -> list[list[str]]:
    rows = [
        ["module", f"{attention.module or '(the model itself)'} ({attention.module_class})", "", ""],
        ["form", f"{attention.kind.value}, {attention.form.value}", "", ""],
        ["sizes", f"{attention.n_heads} heads of {attention.d_head or '?'}, {attention.n_queries} queries, "
                  f"{attention.n_keys} keys on the traced batch", "", ""],
    ]
    return rows + [["not resolved", words, "", ""] for words in attention.unresolved]


def _head_rows(attention: Attention, about: About) -> None:
    for role, slices in attention.head_slices.items():
        letter = ROLE_LETTERS.get(Role(role), role)
        group = max(1, attention.n_heads // max(len(slices), 1))
        for head in range(attention.n_heads):
            own = slices[head // group] if head // group < len(slices) else ()
            if own:
                about.setdefault(f"{attention.name}H{head}", []).append([letter, str(own[0]), "", ""])
