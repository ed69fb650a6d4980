"""What is true of an attention, written by hand, and how an anatomy is compared with it."""

from __future__ import annotations

import inspect
import linecache
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pytest
from torch import nn

from attnscope.anatomy.blocks import Anatomy, Attention, ParameterSlice

ANY: Any = object()  # "this row says nothing about it"
MIN32 = -3.4028234663852886e38  # torch.finfo(torch.float32).min


@dataclass(frozen=True)
class P:
    """Part of a parameter: the whole, or index ranges along one dimension."""

    name: str
    dim: int | None = None
    ranges: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Mask:
    """One mask: `how` may list alternatives that are the same to the model."""

    how: str | tuple[str, ...]
    fill: Any = ANY
    when: str = "before_softmax"
    causal: Any = ANY
    allowed_share: Any = ANY


@dataclass(frozen=True)
class Truth:
    """One attention. A projection that is None must be absent; a head entry is (first head, last head).

    `marks` names the steps whose line carries a `# <- step` comment in the class that computes it; `lines`
    gives, for code that is not ours, what the line of a step contains and how its file's name ends.
    `scoring` replaces query and key where a small network makes the scores: the parameters behind both.
    """

    module: str | tuple[str, ...]
    form: str | tuple[str, ...]
    kind: str | tuple[str, ...]
    n_heads: int
    d_head: Any = ANY
    n_key_heads: int | None = None
    d_value: Any = ANY
    query: Any = ANY
    key: Any = ANY
    value: Any = ANY
    output: Any = ANY
    scoring: Any = ANY
    may_hold: tuple[str, ...] = ()
    heads: Mapping[str, tuple[tuple[P, ...], tuple[P, ...]]] = field(default_factory=dict)
    scale: Any = ANY
    masks: Any = ()
    causal: bool = False
    softmax_over: str = "keys"
    softmax_dim: Any = -1
    softmax_applications: int = 1
    normaliser: str = "softmax"
    dropout: tuple[tuple[str, float], ...] = ()
    positions: Any = ()
    rotary_sides: tuple[str, ...] = ()
    residual: Any = ANY
    norm_place: Any = ANY
    head_layout: str = "ok"
    n_queries: Any = ANY
    n_keys: Any = ANY
    batch_size: Any = ANY
    marks: tuple[str, ...] = ()
    lines: Mapping[str, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One model: how it is made, and everything that is true of it."""

    name: str
    make: Callable[[], tuple[nn.Module, Any]]
    truth: tuple[Truth, ...]
    train: bool = False
    unused: Any = ()
    wrappers: tuple[str, ...] = ()
    prefix: str = ""  # what a wrapper puts before every name
    fails: str = ""  # why the anatomy is known to be wrong about it; the test fails when that is no longer so


def params(rows: Iterable[Row]) -> list[Any]:
    """Rows as test parameters; a row that is known to fail must fail."""
    return [
        pytest.param(row, id=row.name, marks=[pytest.mark.xfail(strict=True, reason=row.fails)] if row.fails else [])
        for row in rows
    ]


def differences(row: Row, model: nn.Module, anatomy: Anatomy) -> list[str]:
    """Every way in which the anatomy is not what is true, in words."""
    found = []
    if len(anatomy.attentions) != len(row.truth):
        where = [f"{item.module or '(model)'} [{item.form}]" for item in anatomy.attentions]
        return [f"{len(row.truth)} attentions expected, {len(where)} found: {where}; notes {anatomy.notes}"]
    if not row.truth and not any("no attention" in note.lower() for note in anatomy.notes):
        found.append(f"no note says that there is no attention: {anatomy.notes}")
    if anatomy.wrappers != row.wrappers:
        found.append(f"wrappers: expected {row.wrappers}, got {anatomy.wrappers}")
    if row.unused is not ANY and set(anatomy.unused) != set(row.unused):
        found.append(f"unused: expected {sorted(row.unused)}, got {sorted(anatomy.unused)}")
    for number, (truth, attention) in enumerate(zip(row.truth, anatomy.attentions, strict=True)):
        if attention.layer != number:
            found.append(f"attention {number} has layer {attention.layer}")
        for text in _attention_differences(truth, attention, anatomy, model, row):
            found.append(f"L{number} {text}")
    return found


def _attention_differences(
    truth: Truth, attention: Attention, anatomy: Anatomy, model: nn.Module, row: Row
) -> Iterator[str]:
    facts = {
        "form": truth.form,
        "kind": truth.kind,
        "n_heads": truth.n_heads,
        "n_key_heads": truth.n_heads if truth.n_key_heads is None else truth.n_key_heads,
        "d_head": truth.d_head,
        "d_value": truth.d_value,
        "scale": truth.scale,
        "residual": truth.residual,
        "norm_place": truth.norm_place,
        "head_layout": truth.head_layout,
        "n_queries": truth.n_queries,
        "n_keys": truth.n_keys,
        "batch_size": truth.batch_size,
        "rotary_sides": truth.rotary_sides,
        "module": _each(truth.module, lambda path: _named(path, row.prefix)),
    }
    for name, expected in facts.items():
        got = getattr(attention, name)
        if not _agrees(expected, sorted(got) if name == "rotary_sides" else got):
            yield f"{name}: expected {_shown(expected)}, got {_shown(got)}"
    if truth.positions is not ANY and set(attention.positions) - {"none"} != set(truth.positions):
        yield f"positions: expected {truth.positions}, got {attention.positions}"
    yield from _softmax_differences(truth, attention)
    yield from _mask_differences(truth, attention)
    yield from _dropout_differences(truth, attention, train=row.train)
    yield from _block_differences(truth, attention, anatomy, row.prefix)
    yield from _head_differences(truth, attention, row.prefix)
    yield from _line_differences(truth, attention, model, row.prefix)


def _softmax_differences(truth: Truth, attention: Attention) -> Iterator[str]:
    softmax = attention.softmax
    if softmax is None:
        if "fused" not in _alternatives(truth.form):
            yield "softmax: none found"
        return
    for name, expected in {
        "over": truth.softmax_over,
        "dim": truth.softmax_dim,
        "normaliser": truth.normaliser,
        "applications": truth.softmax_applications,
    }.items():
        got = getattr(softmax, name)
        if not _agrees(expected, got):
            yield f"softmax.{name}: expected {expected}, got {got}"


def _mask_differences(truth: Truth, attention: Attention) -> Iterator[str]:
    if bool(attention.causal_source) != truth.causal:
        yield f"causal: expected {truth.causal}, got causal_source {attention.causal_source!r}"
    if truth.masks is ANY:
        return
    if len(attention.mask) != len(truth.masks):
        yield f"masks: expected {truth.masks}, got {attention.mask}"
        return
    for number, (expected, got) in enumerate(zip(truth.masks, attention.mask, strict=True)):
        for name in ("how", "fill", "when", "causal", "allowed_share"):
            if not _agrees(getattr(expected, name), getattr(got, name)):
                yield f"mask {number} {name}: expected {getattr(expected, name)}, got {getattr(got, name)}"


def _dropout_differences(truth: Truth, attention: Attention, *, train: bool) -> Iterator[str]:
    inside = [step for step in attention.dropout if step.where in ("pattern", "scores")]
    active = [(step.where, step.rate) for step in inside if step.active]
    expected = list(truth.dropout) if train else []
    if len(active) != len(expected) or not all(
        where == other and rate is not None and math.isclose(rate, other_rate, rel_tol=1e-6)
        for (where, rate), (other, other_rate) in zip(active, expected, strict=False)
    ):
        yield f"dropout: expected {expected} to be active, got {attention.dropout}"


def _block_differences(truth: Truth, attention: Attention, anatomy: Anatomy, prefix: str) -> Iterator[str]:
    by_name = {block.name: block for block in anatomy.blocks}
    dangling = [name for name in attention.blocks.values() if name not in by_name]
    if dangling:
        yield f"blocks: {dangling} are not in the anatomy"
        return
    slices = {role: by_name[name].slices for role, name in attention.blocks.items()}
    for role in ("query", "key", "value", "output"):
        expected = getattr(truth, role)
        if expected is ANY:
            continue
        got = slices.get(role)
        if expected is None or got is None:
            if expected is not None or got is not None:
                yield f"{role}: expected {expected}, got {_texts(got)}"
        elif not _same_parts(expected, got, prefix, truth.may_hold):
            yield f"{role}: expected {_texts(expected)}, got {_texts(got)}"
    if truth.scoring is not ANY:
        got = [part for role in ("query", "key", "query_key") for part in slices.get(role, ())]
        if not _same_parts(truth.scoring, got, prefix, truth.may_hold):
            yield f"scoring: expected {_texts(truth.scoring)}, got {_texts(got)} ({dict(attention.blocks)})"


def _head_differences(truth: Truth, attention: Attention, prefix: str) -> Iterator[str]:
    for role, (first, last) in truth.heads.items():
        got = attention.head_slices.get(role, ())
        n_heads = attention.n_key_heads if role in ("key", "value") else attention.n_heads
        if len(got) != n_heads:
            yield f"head slices of {role}: {n_heads} expected, {len(got)} found"
            continue
        for which, expected, found in (("first", first, got[0]), ("last", last, got[-1])):
            if not _same_parts(expected, found, prefix, ()):
                yield f"{which} head of {role}: expected {_texts(expected)}, got {_texts(found)}"


def _line_differences(truth: Truth, attention: Attention, model: nn.Module, prefix: str) -> Iterator[str]:
    wanted = dict(truth.lines)
    for mark in truth.marks:
        source = _steps(attention).get(mark)
        got = "none" if source is None else f"{source.file}:{source.line}"
        path = _alternatives(truth.module)[0]
        expected = [
            f"{file}:{line}" for file, line in marked_lines(model.get_submodule(_named(path, prefix)), mark)
        ]
        if got not in expected:
            yield f"line of {mark}: expected {expected}, got {got} {getattr(source, 'text', '')!r}"
    for step, (file, text) in wanted.items():
        source = _steps(attention).get(step)
        if source is None:
            yield f"line of {step}: none"
            continue
        line = linecache.getline(source.file, source.line)
        if not source.file.endswith(file) or text not in line:
            yield f"line of {step}: expected {text!r} in {file}, got {source} {line.strip()!r}"


def _steps(attention: Attention) -> dict[str, Any]:
    steps = {
        "scores": attention.score_step,
        "scale": attention.scale_step,
        "value": attention.value_step,
        "residual": attention.residual_step,
        "softmax": attention.softmax,
        "mask": attention.mask[0] if attention.mask else None,
        "dropout": attention.dropout[0] if attention.dropout else None,
    }
    return {name: step.source for name, step in steps.items() if step is not None}


def marked_lines(module: nn.Module, mark: str) -> list[tuple[str, int]]:
    """The lines of a module's class whose comment `# <- a b` names the step."""
    found = [place for place, marks in _marks(type(module)) if mark in marks]
    if not found:
        raise LookupError(f"{type(module).__name__} marks no line with {mark!r}")
    return found


@cache
def _marks(module_class: type[nn.Module]) -> list[tuple[tuple[str, int], list[str]]]:
    """Every marked line of a class: its place, and the steps that the comment names."""
    lines, start = inspect.getsourcelines(module_class)
    file = str(inspect.getsourcefile(module_class))
    return [
        ((file, start + offset), line.split("# <- ")[1].split())
        for offset, line in enumerate(lines)
        if "# <- " in line
    ]


def _same_parts(
    expected: Iterable[P], got: Iterable[ParameterSlice], prefix: str, may_hold: tuple[str, ...]
) -> bool:
    got = list(got)
    shapes = {part.parameter: part.shape for part in got}
    wanted: dict[str, np.ndarray] = {}
    for part in expected:
        name = _named(part.name, prefix)
        if name not in shapes:
            return False
        _fill(wanted, name, shapes[name], part.dim, part.ranges)
    found: dict[str, np.ndarray] = {}
    optional = {_named(name, prefix) for name in may_hold}
    for part in got:
        if part.parameter not in optional or part.parameter in wanted:
            _fill(found, part.parameter, part.shape, part.dim, part.ranges)
    return wanted.keys() == found.keys() and all(np.array_equal(wanted[name], found[name]) for name in wanted)


def _fill(
    cells: dict[str, np.ndarray], name: str, shape: tuple[int, ...], dim: int | None, ranges: Any
) -> None:
    held = cells.setdefault(name, np.zeros(shape, dtype=bool))
    if dim is None:
        held[...] = True
        return
    for start, stop in ranges:
        held[(slice(None),) * dim + (slice(start, stop),)] = True


def _named(name: str, prefix: str) -> str:
    return f"{prefix}{name}" if name else prefix.rstrip(".")


def _alternatives(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _each(value: Any, change: Callable[[str], str]) -> Any:
    return tuple(map(change, value)) if isinstance(value, tuple) else change(value)


def _agrees(expected: Any, got: Any) -> bool:
    if expected is ANY:
        return True
    if isinstance(got, list):
        return sorted(expected) == got
    if isinstance(expected, tuple):
        return any(_agrees(one, got) for one in expected)
    if isinstance(expected, float) and isinstance(got, int | float):
        return expected == got or math.isclose(expected, got, rel_tol=1e-4)
    return bool(expected == got)


def _shown(value: Any) -> str:
    return (
        f"{value:.6g}"
        if isinstance(value, float)
        else repr(str(value))
        if isinstance(value, str)
        else str(value)
    )


def _texts(parts: Any) -> list[str] | None:
    if parts is None:
        return None
    return [
        str(part) if isinstance(part, ParameterSlice) else f"{part.name}[{part.dim}:{part.ranges}]"
        for part in parts
    ]
