"""The curvature page: its figures say the numbers, its order is a tree's, and it opens offline."""

from __future__ import annotations

import re
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.cluster.hierarchy import linkage

from attnscope.formats.curvature_table import block_label, strongest_pairs
from attnscope.pages.curvature_page import curvature_page, drawings, write_figures
from attnscope.pages.linkage import average_linkage, leaves
from attnscope.pages.raster import browser as found_browser
from attnscope.pages.raster import to_png
from attnscope.readings import Reading

NAMES = (*(f"L{layer}.{role}" for layer in range(3) for role in "QKVO"), "model.embedding")
N = len(NAMES)


def portrait(hostile: str = "") -> dict[str, Any]:
    rng = np.random.default_rng(0)
    names = (*NAMES[:-1], hostile or NAMES[-1])
    values = rng.uniform(0.1, 1.0, (N, N))
    values = (values + values.T) / 2
    for layer in range(3):
        values[4 * layer, 4 * layer + 1] = values[4 * layer + 1, 4 * layer] = 20.0
    np.fill_diagonal(values, 1.0)
    errors = np.full((N, N), 0.01)
    values[0, 5] = values[5, 0] = 0.015  # its error bar reaches zero
    pair = {"block": names, "other_block": names}
    block = {"block": names}
    grid = tuple(np.linspace(-1, 3, 101).tolist())
    readings = [
        Reading("top_eigenvalue", 10.0 ** np.linspace(-5, 1, N), ("block",), "1", block),
        Reading("coupling", values, ("block", "other_block"), "1", pair, stderr=errors),
        Reading("pair_norm", values / 2, ("block", "other_block"), "1", pair, stderr=errors),
        Reading("trace", np.ones(N), ("block",), "1", block, stderr=np.full(N, np.nan)),
        Reading("spectral_density", np.exp(-np.array(grid) ** 2), ("eigenvalue",), "1", {"eigenvalue": grid},
                stderr=np.full(101, 0.01), facts={"ritz": [-1.0, 0.5, 3.0], "residuals": [0.4, 0.4, 1e-5],
                                                  "negative_share": 0.25}),
        Reading("eigenvector_mass", np.full((2, N), 1 / N), ("end", "block"), "share",
                {"end": ("top", "bottom"), **block}),
        Reading("eigenvector_mass_by_head", rng.uniform(0, 0.1, (2, 3, 4)), ("end", "layer", "head"), "share",
                {"end": ("top", "bottom")}),
        Reading("stability_over_training", np.array([np.nan, 0.4, 0.9]), ("step",), "limit", {"step": (0, 5, 10)}),
        Reading("loss_over_training", np.array([1.0, 0.7, 0.5]), ("step",), "nats", {"step": (0, 5, 10)}),
    ]
    blocks = {
        name: {"layer": int(name[1]) if name in NAMES[:-1] else None, "head": None, "role": "query",
               "parameters": 16, "source": ""}
        for name in names
    }
    facts = {
        "loss": 0.5, "gradient_norm": 0.1, "parameters": 16 * N, "gradients": 41.0, "seconds": 3.0,
        "seconds_per_gradient": 0.05, "left_out": [], "notes": [], "precision": "float32",
    }
    return {"name": hostile or "a model", "level": "projection", "interrupted": False, "facts": facts,
            "blocks": blocks, "readings": {item.lens: item.to_dict() for item in readings}}


def test_average_linkage_is_that_of_scipy() -> None:
    rng = np.random.default_rng(3)
    for n in (2, 3, 9, 30):
        points = rng.normal(size=(n, 4))
        distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
        ours = average_linkage(distance)
        theirs = linkage(distance[np.triu_indices(n, 1)], "average")
        assert [join.height for join in ours] == pytest.approx(theirs[:, 2].tolist())
        assert sorted(leaves(ours, n)) == list(range(n))
        assert leaves(ours, n)[0] == 0


def test_strong_pairs_stand_side_by_side() -> None:
    values = np.full((6, 6), 0.1)
    for a, b in ((0, 3), (1, 4), (2, 5)):
        values[a, b] = values[b, a] = 5.0
    order = leaves(average_linkage(-np.log(values)), 6)
    assert {frozenset(order[slot:slot + 2]) for slot in (0, 2, 4)} == {
        frozenset((0, 3)), frozenset((1, 4)), frozenset((2, 5)),
    }


def test_unknown_distances_are_the_farthest() -> None:
    distance = np.array([[0, np.nan, 1.0], [np.nan, 0, 2.0], [1.0, 2.0, 0]])
    joins = average_linkage(distance)
    assert (joins[0].left, joins[0].right, joins[0].height) == (0, 2, 1.0)
    assert joins[1].height == 2.0


def test_pairs_that_are_not_told_stay_empty() -> None:
    svg = drawings(portrait())["coupling"][0][1]
    titles = re.findall(r"<title>(L\S+), (\S+): ([^<]*)</title>", svg)
    assert ("L0.Q", "L0.K") in {title[:2] for title in titles}
    assert ("L0.Q", "L1.K") not in {title[:2] for title in titles}
    assert len(titles) == N * (N - 1) - 2 - (N - 1)  # the embedding's own row is not matched
    strongest = strongest_pairs({key: Reading.from_dict(data) for key, data in portrait()["readings"].items()},
                                portrait()["blocks"])
    assert {(pair.a, pair.b) for pair in strongest[:3]} == {("L0.Q", "L0.K"), ("L1.Q", "L1.K"), ("L2.Q", "L2.K")}


def test_labels_are_short_and_tell_the_layer() -> None:
    blocks = {"net.layer.2.ffn": {"layer": 2}, "L1.Q": {"layer": 1}, "net.classifier": {"layer": None}}
    assert [block_label(name, blocks) for name in blocks] == ["L2.ffn", "L1.Q", "classifier"]


def test_figures_stand_alone(tmp_path: Path) -> None:
    files = write_figures(portrait(), tmp_path / "figures")
    assert {file.stem for file in files} == {
        "block_map", "coupling-model_order", "coupling-hierarchical_order", "spectral_density",
        "eigenvector_mass-by_block", "eigenvector_mass-by_head", "stability",
    }
    for file in files:
        text = file.read_text(encoding="utf-8")
        root = ET.fromstring(text)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "var(" not in text
        assert "light-dark" not in text
        styled = set(re.findall(r"\.([\w-]+)", text.partition("<style>")[2].partition("</style>")[0]))
        used = {name for found in re.findall(r'class="([^"]+)"', text) for name in found.split()}
        assert used <= styled | {"t", "mono", "dim", "num"}, used


def test_a_page_of_what_little_is_known(tmp_path: Path) -> None:
    data = portrait()
    data["readings"] = {"top_eigenvalue": data["readings"]["top_eigenvalue"]}
    data["interrupted"] = True
    text = curvature_page(data, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Interrupted" in text
    assert 'id="block_map"' in text
    assert 'id="coupling"' not in text
    data["readings"] = {}
    assert "nothing was measured" in curvature_page(data, tmp_path / "none.html").read_text(encoding="utf-8")


def test_names_are_inert(tmp_path: Path) -> None:
    text = curvature_page(portrait("<script>alert(1)</script>"), tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script" not in text


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no chromium on this machine")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as engine:
        running = engine.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield running
        running.close()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_opens_offline_and_switches_order(chromium: Any, tmp_path: Path, scheme: str, width: int) -> None:
    file = curvature_page(portrait("<b>&\"'"), tmp_path / "page.html")
    context = chromium.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
    asked, said = [], []
    page = context.new_page()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    context.route("**/*", lambda route: route.continue_() if route.request.url == file.as_uri()
                  else (asked.append(route.request.url), route.abort()))
    page.goto(file.as_uri())
    assert (asked, said) == ([], [])
    assert page.locator("h2").all_inner_texts() == [
        "Block map", "Coupling", "Spectral density", "Where the extreme directions lie", "Stability", "Numbers",
    ]
    assert page.locator("figure.by-model").is_visible()
    page.get_by_text("hierarchical order").click()
    assert page.locator("figure.by-tree").is_visible()
    assert not page.locator("figure.by-model").is_visible()
    # Wide figures scroll inside their frame; the page itself never does.
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    ink = page.evaluate("getComputedStyle(document.querySelector('figure text')).fill")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ink != ground
    # A bar is a bar, not the header of another page that has the same class.
    heights = page.locator("rect.share").evaluate_all("bars => bars.map(bar => bar.getBBox().height)")
    assert heights
    assert max(heights) <= 7
    context.close()


@pytest.mark.browser
def test_png(tmp_path: Path) -> None:
    program = found_browser()
    if program is None:
        pytest.skip("no chromium on this machine")
    file = next(file for file in write_figures(portrait(), tmp_path) if file.stem == "block_map")
    made = to_png(file, program)
    assert made is not None
    assert made.read_bytes().startswith(b"\x89PNG")
    assert to_png(file.with_suffix(".svg"), "/bin/false") is None or made.exists()
