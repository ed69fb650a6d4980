"""Rows of a benchmark that never ran: numbers drawn at random, with effects of faults that are known."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from attnscope.bench.row import CONTROL, FAULT, HEALTHY, Named, Row

LENSES = (
    "gradient_norm", "gradient_to_weight", "gradient_variance", "update_to_weight", "weight_norm", "weight_distance",
    "turn", "activation_norm", "block_ablation", "block_top_eigenvalue", "block_bottom_eigenvalue", "block_trace",
    "relative_curvature", "negative_share", "preconditioned_top_eigenvalue",
)  # fmt: skip
SITES = ("scale", "mask", "softmax", "scores", "dropout", "heads", "residual")
COST = {
    **dict.fromkeys(("gradient_norm", "gradient_to_weight"), 0.01), "gradient_variance": 0.04,
    "update_to_weight": 0.02, "activation_norm": 0.01, "block_ablation": 0.1, "block_trace": 0.3,
    "relative_curvature": 0.3, "negative_share": 0.9, "preconditioned_top_eigenvalue": 0.7, "coupling": 0.5,
    "entropy": 0.01, "largest_score": 0.01,
}  # fmt: skip


def seeded(*parts: object) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(repr(parts).encode()))


def healthy(subject: str = "han_keyed", seed: int = 0, *, n_layers: int = 3, moment: float = 1.0) -> Row:
    """A healthy row: every block has its own usual size, every seed its own noise."""
    blocks, roles, layers = ["tokens"], ["embedding"], [-1]
    for layer in range(n_layers):
        for letter, role in zip("QKVO", ("query", "key", "value", "output"), strict=True):
            blocks.append(f"L{layer}.{letter}")
            roles.append(role)
            layers.append(layer)
        blocks.append(f"layer.{layer}.mlp")
        roles.append("mlp")
        layers.append(layer)
    blocks.append("classifier")
    roles.append("classifier")
    layers.append(-1)
    names = [f"L{layer}" for layer in range(n_layers)]
    usual, noise = seeded(subject), seeded(subject, seed, moment)
    n = len(blocks)
    values = {}
    for lens in LENSES:
        size = np.exp(usual.normal(size=n))
        spread = 0.9 if lens in ("block_top_eigenvalue", "block_trace") else 0.3
        values[lens] = tuple((size * np.exp(spread * noise.normal(size=n))).tolist())
    values["negative_share"] = tuple((0.3 + 0.03 * noise.normal(size=n)).tolist())
    attention = {
        "entropy": {name: 0.7 + 0.03 * noise.normal() for name in names},
        "padding_mass": dict.fromkeys(names, 0.0),
        "future_mass": dict.fromkeys(names, 0.0),
        "largest_score": {name: float(np.exp(1 + 0.2 * noise.normal())) for name in names},
        "head_similarity": {name: 0.4 + 0.05 * noise.normal() for name in names},
        "first_token_mass": {name: 0.1 + 0.02 * noise.normal() for name in names},
    }
    heads = {
        "entropy": {name: tuple((0.7 + 0.03 * noise.normal(size=4)).tolist()) for name in names},
        "contribution": {name: tuple(np.exp(0.2 * noise.normal(size=4)).tolist()) for name in names},
    }
    pairs = {
        f"{name}.{a} {name}.{b}": float(np.exp(0.1 * noise.normal()))
        for name in names
        for a, b in ("QK", "QV", "KV", "VO")
    }
    return Row(
        key=f"{subject}/healthy/-/-:0/1/seed{seed}/{moment:g}", subject=subject, model=subject.split("_")[0],
        task=subject.split("_")[-1], arm=HEALTHY, seed=seed, moment=moment, step=int(200 * moment),
        quality=0.9 + 0.01 * noise.normal(), loss=0.3, blocks=tuple(blocks), roles=tuple(roles),
        layers=tuple(layers), sizes=tuple(100 + 10 * i for i in range(n)),
        sites=(*(f"{name}.{site}" for name in names for site in SITES), "positions", "model", "data"),
        block_values=values, layer_values=attention, head_values=heads, pair_values=pairs, cost=COST,
        gradient_seconds=0.01, diagnosis_seconds=0.4, losses=tuple(np.linspace(2.0, 0.3, 50).tolist()),
        provenance={"torch": "2.13.0"},
    )  # fmt: skip


def scaled(row: Row, lens: str, block: str, factor: float) -> Row:
    """The row with one block's value of a lens multiplied."""
    index = row.blocks.index(block)
    values = list(row.block_values[lens])
    values[index] *= factor
    return replace(row, block_values={**row.block_values, lens: tuple(values)})


def faulty(
    change: str, subject: str = "han_keyed", seed: int = 0, *, layer: int = 1, moment: float = 1.0, n_layers: int = 3
) -> Row:
    """A row of one of the faults below, with the effect that each has."""
    noise = seeded(subject, seed, change, layer, moment)
    row = healthy(subject, seed, n_layers=n_layers, moment=moment)
    twin = row.quality
    # Another training from another random state: the noise is drawn again, so that a twin is not a copy.
    row = replace(row, block_values={
        lens: tuple((np.array(values) * np.exp(0.05 * noise.normal(size=len(values)))).tolist())
        for lens, values in row.block_values.items()
    })  # fmt: skip
    where = ("early", "middle", "late")[min(layer, 2)]
    row = replace(
        row, key=f"{subject}/fault/{change}/{where}:{layer}/1/seed{seed}/{moment:g}", arm=FAULT, change=change,
        layer=layer, strength=1.0, where=where, recognised_as=(change,), quality=0.6 + 0.02 * noise.normal(),
    )  # fmt: skip
    name = f"L{layer}"
    if change == "padding_attended":
        attention = {**row.layer_values, "padding_mass": {**row.layer_values["padding_mass"], name: 0.2}}
        found = Named("MSK102", change, f"{name}.mask", "error", 1.0)
        return replace(row, places=(f"{name}.mask",), visibility="I", layer_values=attention, findings=(found,))
    if change == "frozen_key":
        row = scaled(scaled(row, "gradient_norm", f"{name}.K", 30.0), "update_to_weight", f"{name}.K", 0.0)
        said = (Named("GRD501", "left_out_of_optimizer", f"{name}.K", "error", 0.9),) if seed % 3 else ()
        return replace(
            row, places=(f"{name}.K",), visibility="U", findings=said, recognised_as=("left_out_of_optimizer",)
        )
    if change == "missing_scale":
        row = scaled(scaled(row, "relative_curvature", f"{name}.Q", 40.0), "relative_curvature", f"{name}.K", 40.0)
        pairs = {**row.pair_values, f"{name}.Q {name}.K": 6.0}
        said = (Named("SFT201", "wrong_scale", f"{name}.scale", "warning", 0.7),) if seed % 2 else ()
        return replace(
            row, places=(f"{name}.scale", f"{name}.scores"), visibility="C", pair_values=pairs, findings=said,
            recognised_as=("wrong_scale",),
        )  # fmt: skip
    if change == "zeroed_head":
        heads = {k: {**v, name: (v[name][0], 0.0, *v[name][2:])} for k, v in row.head_values.items()}
        said = (Named("PRJ303", "zeroed_projection", f"{name}H1.V", "error", 1.0),)
        return replace(
            row, places=(f"{name}H1.V", f"{name}H1"), visibility="A", head_values=heads, findings=said,
            recognised_as=("zeroed_projection",),
        )  # fmt: skip
    assert change == "silent"  # a fault without any effect
    assert twin is not None
    return replace(row, places=(f"{name}.V",), visibility="C", quality=twin + (0.01 if seed % 2 else -0.01))


def control(name: str, subject: str = "han_keyed", seed: int = 0) -> Row:
    """A control: a rescaling moves raw curvature and nothing else, another batch order moves everything a bit."""
    row = replace(
        healthy(subject, seed), key=f"{subject}/control/{name}/-:0/1/seed{seed}/1", arm=CONTROL, change=name
    )
    if name == "query_key_rescaled":
        for lens in ("block_top_eigenvalue", "block_trace"):
            row = scaled(scaled(row, lens, "L1.K", 64.0), lens, "L1.Q", 1 / 64)
        return row
    again = healthy(subject, seed + 1000)
    values = {
        lens: tuple((np.sqrt(np.array(values) * np.array(again.block_values[lens]))).tolist())
        for lens, values in row.block_values.items()
    }
    return replace(row, block_values=values)


FAULTS = ("padding_attended", "frozen_key", "missing_scale", "zeroed_head", "silent")
SUBJECTS = ("han_keyed", "conv3d_digits", "distilbert_reviews", "gpt_copying")


def bench(
    subjects: Sequence[str] = SUBJECTS, seeds: Iterable[int] = range(6), bank: Iterable[int] = range(6, 12),
    faults: Sequence[str] = FAULTS, layers: Sequence[int] = (0, 1, 2),
) -> list[Row]:  # fmt: skip
    """A whole benchmark."""
    seeds = list(seeds)
    rows = []
    for subject in subjects:
        rows += [healthy(subject, seed) for seed in (*seeds, *bank)]
        for seed in seeds:
            rows += [faulty(fault, subject, seed, layer=layer) for fault in faults for layer in layers]
            rows += [control(name, subject, seed) for name in ("query_key_rescaled", "batch_order")]
        rows += [faulty(fault, subject, seeds[0], layer=0, moment=m) for fault in faults for m in (0.1, 0.5)]
    return rows
