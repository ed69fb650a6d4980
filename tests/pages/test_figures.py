"""Every combination of dims has a figure; figures show the numbers they are given."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnscope.pages.drawing import Drawing, everywhere, summary
from attnscope.pages.figures import FIGURES, figure, strip
from attnscope.pages.lines import MOST_POINTS
from attnscope.pages.matrices import MOST_CELLS
from attnscope.pages.ordering import by_similarity
from attnscope.pages.scale import DIVERGING, LINEAR, LOG, Scale, nice
from attnscope.readings import FAILED, Reading, missing

NAMES = ("layer", "head", "block", "role", "step", "token", "eigenvalue")


def drawn(reading: Reading, **more: object) -> list[str]:
    made = figure(Drawing(reading, **more))  # type: ignore[arg-type]
    assert made is not None
    for svg in made.svg.values():
        ET.fromstring(svg)
    return list(made.svg.values())


def make(dims: tuple[str, ...], size: int = 4, seed: int = 0) -> Reading:
    random = np.random.default_rng(seed)
    coords = {dim: tuple(f"{dim}.{i}" for i in range(size)) for dim in dims if dim in ("block", "role")}
    return Reading("a_lens", random.normal(size=(size,) * len(dims)), dims, "nats", coords)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_every_combination_of_dims_is_drawn(n: int) -> None:
    for dims in itertools.permutations(NAMES, n):
        assert drawn(make(dims)), dims


def test_there_is_one_function_for_each_combination_of_two_kinds() -> None:
    kinds = ("place", "scale")
    assert set(FIGURES) == {(kind,) for kind in kinds} | set(itertools.product(kinds, kinds))


def test_one_number_and_no_number_need_no_figure() -> None:
    assert figure(Drawing(Reading("loss", np.asarray(0.5), (), "1"))) is None
    assert figure(Drawing(missing("loss", ("layer",), "1", FAILED, "no loss"))) is None
    assert summary(missing("loss", ("layer",), "1", FAILED, "no loss")) == "no loss"
    assert summary(Reading("loss", np.asarray(0.5), (), "nats")) == "0.5 nats"


def test_a_heatmap_has_a_cell_for_each_number_and_none_for_nan() -> None:
    values = np.arange(24.0).reshape(4, 6)
    values[1, 2] = np.nan
    (svg,) = drawn(Reading("x", values, ("layer", "head"), "1"))
    root = ET.fromstring(svg)
    cells = sum(
        path.get("d", "").count("M") for path in root.iter() if path.tag == "path" and path.get("class", "")[:1] == "q"
    )
    assert cells == 23 + 9  # and the nine colours of the legend


def test_the_colours_follow_the_values() -> None:
    values = np.arange(9.0).reshape(1, 9)
    assert [Scale.of(values).level(value) for value in values[0]] == [f"q{level}" for level in range(9)]


def test_infinities_have_their_own_colour() -> None:
    (svg,) = drawn(Reading("x", np.array([[0.0, np.inf], [1.0, 2.0]]), ("layer", "head"), "1"))
    assert 'class="qi"' in svg


def test_findings_are_ringed_as_one_run() -> None:
    reading = Reading("x", np.arange(12.0).reshape(3, 4), ("layer", "head"), "1")
    (svg,) = drawn(reading, suspects=frozenset((1, head) for head in range(4)))
    assert svg.count('class="ring"') == 1
    (svg,) = drawn(reading, suspects=frozenset({(0, 0), (0, 2)}))
    assert svg.count('class="ring"') == 2


def test_blocks_against_themselves_offer_two_orders() -> None:
    blocks = tuple(f"L{i}.Q" for i in range(6))
    coords = {"block": blocks, "block_b": blocks}
    reading = Reading("coupling", np.random.default_rng(0).random((6, 6)), ("block", "block_b"), "1", coords)
    assert len(drawn(reading)) == 2
    coords = {"block": blocks, "block_b": blocks[:5]}
    uneven = Reading("coupling", np.arange(30.0).reshape(6, 5), ("block", "block_b"), "1", coords)
    assert len(drawn(uneven)) == 1


def test_likeness_puts_two_groups_apart() -> None:
    group = np.array([0, 1, 0, 1, 0, 1, 0, 1])
    values = np.where(group[:, None] == group[None, :], 1.0, 0.05)
    ordered = [int(group[row]) for row in by_similarity(values)]
    assert ordered in ([0] * 4 + [1] * 4, [1] * 4 + [0] * 4)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 9), st.integers(0, 1000))
def test_an_order_is_a_permutation(size: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(size, size))
    if size:
        values[0, -1] = np.nan
    assert sorted(by_similarity(values)) == list(range(size))


def test_dots_show_standard_errors() -> None:
    reading = Reading("x", np.arange(1.0, 6.0), ("block",), "1", stderr=np.full(5, 0.3))
    (svg,) = drawn(reading)
    assert svg.count('class="whisker"') == 5


def test_what_is_the_same_everywhere_needs_no_figure() -> None:
    assert figure(Drawing(Reading("x", np.zeros((6, 12)), ("layer", "head"), "1"))) is None
    assert everywhere(Reading("x", np.array([2.0, np.nan, 2.0]), ("block",), "1")) == 2.0
    assert everywhere(Reading("x", np.array([2.0, 3.0]), ("block",), "1")) is None


def test_the_odd_ones_out_stand_alone() -> None:
    values = np.zeros(40)
    values[[3, 17]] = 0.5, np.inf
    coords = {"block": tuple(f"b{i}" for i in range(40))}
    made = figure(Drawing(Reading("x", values, ("block",), "1", coords)))
    assert made is not None
    assert "the other 38 are 0" in made.caption
    for name, shown in (("b3", True), ("b17", True), ("b4", False)):
        assert (f">{name}<" in made.svg[""]) is shown


def test_many_dots_keep_the_largest_and_say_so() -> None:
    values = np.linspace(0, 1, 300)
    made = figure(Drawing(Reading("x", values, ("block",), "1", {"block": tuple(f"b{i}" for i in range(300))})))
    assert made is not None
    assert "48 largest of 300" in made.caption
    assert "b299" in made.svg[""]
    assert ">b0<" not in made.svg[""]


def test_a_long_line_keeps_its_spike() -> None:
    values = np.zeros(20_000)
    values[7_777] = 100.0
    (svg,) = drawn(Reading("loss", values, ("step",), "1"))
    path = next(path.get("d", "") for path in ET.fromstring(svg).iter("path") if "line" in path.get("class", ""))
    heights = [float(point.split(" ")[1]) for point in path.replace("L", "M").split("M") if point]
    assert min(heights) == pytest.approx(10.0)
    assert len(heights) <= MOST_POINTS + 2


def test_a_matrix_of_a_million_cells_is_small_and_keeps_its_largest() -> None:
    values = np.zeros((1000, 1000))
    values[123, 456] = 5.0
    made = figure(Drawing(Reading("x", values, ("query", "key"), "1")))
    assert made is not None
    svg = made.svg[""]
    assert len(svg) < 400_000
    assert 'class="q8"' in svg
    assert "largest of" in made.caption
    assert svg.count("M") < 2 * MOST_CELLS


def test_a_summary_says_where_the_extreme_is() -> None:
    values = np.zeros((3, 4))
    values[2, 1] = 7.0
    said = summary(Reading("x", values, ("layer", "head"), "nats"))
    assert said == "from 0 to 7 nats (at layer 2, head 1), median 0"


def test_hostile_labels_are_escaped() -> None:
    name = '<script>"&\u202e'
    for svg in drawn(Reading(name, np.arange(3.0), ("block",), "1", {"block": (name, "b", "c")})):
        assert "<script" not in svg
        assert "\u202e" not in svg


@pytest.mark.parametrize(
    ("values", "form"),
    [([0, 1, 2], LINEAR), ([1e-6, 1.0], LOG), ([-1, 3], DIVERGING), ([0.0, 1e9], LINEAR), ([5, 5], LINEAR)],
)
def test_the_scale_suits_the_values(values: list[float], form: str) -> None:
    assert Scale.of(np.asarray(values, dtype=float)).form == form


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=30))
def test_any_numbers_can_be_drawn(values: list[float]) -> None:
    array = np.asarray(values)
    scale = Scale.of(array)
    for value in values:
        if np.isfinite(value):
            assert 0.0 <= scale.at(value) <= 1.0
            assert scale.level(value)[0] in "qd"
    assert scale.ticks()
    for dims in (("layer",), ("step",)):
        made = figure(Drawing(Reading("x", array, dims, "1")))
        if made is not None:
            for svg in made.svg.values():
                ET.fromstring(svg)
                assert "nan" not in svg.replace("not a number", "")


def test_ticks_are_round_and_inside() -> None:
    assert Scale(0.0, 1.0).ticks() == pytest.approx([0, 0.25, 0.5, 0.75, 1.0])
    assert Scale(1e-4, 1e3, LOG).ticks(8) == pytest.approx([10.0**power for power in range(-4, 4)])
    assert nice(0.13) == pytest.approx(0.2)


def test_a_strip_marks_the_place_among_all() -> None:
    reading = Reading("x", np.arange(10.0), ("block",), "1")
    svg = strip(reading, [9.0], expected=0.0)
    root = ET.fromstring(svg)
    diamond = next(path.get("d", "") for path in root.iter("path") if path.get("class") == "here")
    assert diamond.startswith("M272.0")
    assert strip(reading, []) != ""
    assert strip(Reading("x", np.asarray([1.0]), ("block",), "1"), []) == ""
