"""The terminal's table of curvature: names survive a narrow terminal, errors come with a wide one."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from attnscope.formats.curvature_table import block_label, print_curvature
from attnscope.readings import Reading

NAMES = ("embedding.word_embeddings", "L0.Q", "L11.K", "[bold]<script>")


def portrait() -> dict:
    layers = (None, 0, 11, None)
    blocks = {
        name: {"layer": layer, "role": "mlp", "head": None, "parameters": 4}
        for name, layer in zip(NAMES, layers, strict=True)
    }
    readings = {}
    for lens in ("top_eigenvalue", "bottom_eigenvalue", "frobenius_norm", "trace", "stable_rank", "negative_share"):
        reading = Reading(lens, [1.2345e-4] * 4, ("block",), "1", coords={"block": NAMES}, stderr=[1e-5] * 4)
        readings[lens] = reading.to_dict()
    facts = {"notes": [], "left_out": [], "loss": 1.0, "gradients": 10.0, "seconds_per_gradient": 0.1, "seconds": 1.0,
             "precision": "float32"}
    return {"name": "model", "blocks": blocks, "readings": readings, "facts": facts, "interrupted": False}


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_names_stay(width: int) -> None:
    out = io.StringIO()
    print_curvature(portrait(), Console(file=out, width=width))
    said = out.getvalue()
    for name in ("L0.Q", "L11.K", "[bold]<script>", "word_embeddings"):
        assert name in said
    assert ("±" in said) == (width >= 100)
    assert all(len(line) <= width for line in said.splitlines())


def test_labels() -> None:
    blocks = {name: {"layer": 2} for name in ("L2.Q", "norms.2", "h.2.ffn")}
    assert [block_label(name, blocks) for name in blocks] == ["L2.Q", "L2.norms.2", "L2.ffn"]
