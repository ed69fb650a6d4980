"""Curvature readings in the report: which figure each gets, and what is in it."""

import re

import numpy as np
import pytest

from attnscope.examine import diagnose
from attnscope.lenses.coupling import Coupling
from attnscope.pages.block_figures import block_figure
from attnscope.pages.drawing import Drawing
from attnscope.pages.page import html
from attnscope.readings import Reading
from reference.curvature_cases import TinyAttention, tiny_batch

BLOCKS = {f"L{layer}.{role}": {"layer": layer, "head": None} for layer in (0, 1) for role in "QKVO"}
NAMES = tuple(BLOCKS)


def coupling() -> Reading:
    values = np.full((8, 8), 0.1)
    for a, b in ((0, 4), (1, 5), (2, 6), (3, 7)):  # each block with its like in the other layer
        values[a, b] = values[b, a] = 2.0
    values[0, 1] = values[1, 0] = 0.01
    return Reading("coupling", values, ("block", "other_block"), "1", {"block": NAMES, "other_block": NAMES},
                   stderr=np.full((8, 8), 0.02))


def test_coupling_has_bands_a_tree_and_both_orders() -> None:
    drawn = block_figure(Drawing(coupling(), 3, frozenset({(0, 4)})), BLOCKS)
    assert drawn is not None
    assert list(drawn.svg) == ["model order", "hierarchical order"]
    model, tree = drawn.svg.values()
    assert 'class="tree"' in tree
    assert 'class="tree"' not in model
    order = re.search(r'data-ro="([\d ]+)"', tree)
    assert order is not None
    places = [int(number) for number in order[1].split()]
    assert all(abs(places.index(a) - places.index(a + 4)) == 1 for a in range(4))
    for svg in (model, tree):
        assert svg.count('class="band b') == 16
        assert svg.count('class="ring"') == 1
        assert 'data-r="3"' in svg
    assert "error bar reaches zero" in drawn.caption


@pytest.mark.parametrize("stderr", [None, np.full(8, 0.1)])
def test_one_number_per_block_is_a_map_of_layers(stderr: np.ndarray | None) -> None:
    reading = Reading("relative_curvature", np.arange(8.0) + 1, ("block",), "loss", {"block": NAMES}, stderr=stderr)
    drawn = block_figure(Drawing(reading, 1, frozenset({(5,)})), BLOCKS)
    assert drawn is not None
    first = next(iter(drawn.svg.values()))
    assert ">L0<" in first
    assert ">L1<" in first
    assert first.count('class="ring"') == 1
    assert list(drawn.svg) == ([""] if stderr is None else ["map", "with errors"])
    if stderr is not None:
        assert drawn.svg["with errors"].count('class="whisker"') == 8


def test_density_has_ritz_values() -> None:
    grid = tuple(np.linspace(-1, 1, 50).tolist())
    reading = Reading("spectral_density", np.exp(-np.square(grid)), ("eigenvalue",), "parameter^2/loss",
                      {"eigenvalue": grid}, facts={"nodes": [[-0.5, 0.0, 0.7], [-0.4, 0.1, 0.6]]})
    drawn = block_figure(Drawing(reading, 2), BLOCKS)
    assert drawn is not None
    assert drawn.svg[""].count('class="ritz"') == 3
    assert 'class="ritz sure"' not in drawn.svg[""]


def test_readings_of_other_things_keep_their_figure() -> None:
    signed = Reading("coupling", -coupling().values, ("block", "other_block"), "1",
                     {"block": NAMES, "other_block": NAMES})
    heads = Reading("x", np.ones((2, 3)), ("layer", "head"), "1")
    single = Reading("x", np.arange(4.0), ("block",), "1", {"block": NAMES[:4]})
    nothing = Reading("x", np.full(8, np.nan), ("block",), "1", {"block": NAMES})
    assert [block_figure(Drawing(item), BLOCKS) for item in (signed, heads, single, nothing)] == [None] * 4


@pytest.mark.slow
def test_a_deep_check_measures_and_draws_them() -> None:
    diagnosis = diagnose(TinyAttention(), [tiny_batch()], effort="deep")
    shown = {"block_top_eigenvalue", "relative_curvature", "spectral_density", "coupling"}
    assert all(diagnosis.readings[name].ok for name in shown)
    page = html(diagnosis)
    assert 'class="tree"' in page
    assert 'class="ritz"' in page
    chosen = diagnose(TinyAttention(), [tiny_batch()], effort="deep", select=["MSK"])
    assert not shown & chosen.readings.keys()


def test_the_lens_of_coupling_has_the_dims_that_choose_its_figure() -> None:
    assert Coupling.dims == ("block", "other_block")
