"""Laws that curvature obeys whatever the model, checked on random partitions, scales and vectors."""

from __future__ import annotations

import copy
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attnscope.anatomy.blocks import Block, ParameterSlice, Role
from attnscope.curvature.combined import Rescaled
from attnscope.curvature.coupling import coupling
from attnscope.curvature.hessian import Hessian
from attnscope.curvature.hutchinson import trace
from reference.curvature_cases import TinyAttention, tiny_batch, tiny_blocks, tiny_loss

SETTINGS = settings(max_examples=15, deadline=None)
ALL = sum(parameter.numel() for parameter in TinyAttention().parameters())


@cache
def model():
    torch.manual_seed(3)
    built = TinyAttention()
    optimizer = torch.optim.Adam(built.parameters(), lr=0.02)
    for _ in range(40):
        optimizer.zero_grad()
        tiny_loss(built, tiny_batch()).backward()
        optimizer.step()
    return built


def hessian(of=None, blocks=None):
    of = of if of is not None else model()
    return Hessian(of, [tiny_batch()], tiny_loss, blocks or tiny_blocks(of), dtype=torch.float64)


@cache
def operator():
    return hessian()


def random_vectors(sizes, seed):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(n, generator=generator, dtype=torch.float64) for name, n in sizes.items()}


def inner(one, other):
    return float(sum(one[name] @ other[name] for name in one))


@SETTINGS
@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_symmetric(seed, other):
    u, v = random_vectors(operator().sizes, seed), random_vectors(operator().sizes, other)
    assert inner(u, operator().matvec(v)) == pytest.approx(inner(v, operator().matvec(u)), rel=1e-9, abs=1e-9)


@SETTINGS
@given(st.integers(0, 10**6), st.floats(-5, 5))
def test_linear(seed, factor):
    u, v = random_vectors(operator().sizes, seed), random_vectors(operator().sizes, seed + 1)
    both = operator().matvec({name: u[name] + factor * v[name] for name in u})
    one, other = operator().matvec(u), operator().matvec(v)
    for name in u:
        torch.testing.assert_close(both[name], one[name] + factor * other[name], rtol=1e-9, atol=1e-9)


def test_block_traces_sum_to_the_trace():
    whole = Block("all", Role.ENCODER, tuple(
        ParameterSlice(name, tuple(parameter.shape)) for name, parameter in model().named_parameters()
    ))
    n = ALL
    by_block = sum(item.value for item in trace(operator(), n_probes=n).values())
    assert by_block == pytest.approx(trace(hessian(blocks=(whole,)), n_probes=n)["all"].value, rel=1e-10)


@SETTINGS
@given(st.lists(st.integers(1, 11), max_size=4, unique=True), st.integers(0, 10**6))
def test_the_partition_does_not_matter(cuts, seed):
    """A product is the same function of the parameters, however they are cut into blocks."""
    ends = [0, *sorted(cuts), 12]
    blocks = tuple(
        Block(f"part{i}", Role.QUERY, (ParameterSlice("in_proj.weight", (12, 4), 0, ((a, b),)),))
        for i, (a, b) in enumerate(pairwise(ends))
    )
    whole = (Block("whole", Role.QUERY, (ParameterSlice("in_proj.weight", (12, 4)),)),)
    vector = random_vectors({"whole": 48}, seed)["whole"]
    pieces = dict(zip((b.name for b in blocks), vector.split([b.numel for b in blocks]), strict=True))
    product = hessian(blocks=blocks).matvec(pieces)
    torch.testing.assert_close(torch.cat(list(product.values())), hessian(blocks=whole).own("whole", vector))


@SETTINGS
@given(st.sampled_from([0.125, 0.5, 2.0, 8.0, 64.0]))
def test_coupling_is_blind_to_exchanging_scale_between_query_and_key(c):
    """W_Q c, W_K / c is the same function: norms change by powers of c, the coupling does not at all."""
    rescaled = copy.deepcopy(model())
    with torch.no_grad():
        for parameter in (rescaled.in_proj.weight, rescaled.in_proj.bias):
            parameter[:4] *= c
            parameter[4:8] /= c
    before, after = coupling(operator(), n_probes=3), coupling(hessian(rescaled), n_probes=3)
    assert after.norm("L0.Q", "L0.Q").value == pytest.approx(before.norm("L0.Q", "L0.Q").value / c**2, rel=1e-6)
    assert after.norm("L0.Q", "L0.K").value == pytest.approx(before.norm("L0.Q", "L0.K").value, rel=1e-6)
    assert np.allclose(after.ratios, before.ratios, rtol=1e-6, equal_nan=True)


@SETTINGS
@given(st.sampled_from([0.25, 3.0, 10.0]))
def test_coupling_is_blind_to_the_unit_of_the_loss(factor):
    scaled = Hessian(
        model(), [tiny_batch()], lambda m, b: factor * tiny_loss(m, b), tiny_blocks(model()), dtype=torch.float64
    )
    one, other = coupling(operator(), n_probes=3), coupling(scaled, n_probes=3)
    assert np.allclose(other.norms, factor * one.norms, rtol=1e-8)
    assert np.allclose(other.ratios, one.ratios, rtol=1e-8)


@SETTINGS
@given(st.sampled_from(["L0.Q", "L0.V", "mlp", "classifier"]), st.sampled_from([1e-3, 0.25, 7.0, 1e3]))
def test_coupling_is_blind_to_the_unit_of_a_block(name, unit):
    """A block measured in another unit has other norms, and the same coupling."""
    scales = {other: torch.full((size,), unit if other == name else 1.0) for other, size in operator().sizes.items()}
    before, after = coupling(operator(), n_probes=3), coupling(Rescaled(operator(), scales), n_probes=3)
    assert after.norm(name, name).value == pytest.approx(before.norm(name, name).value * unit**2, rel=1e-9)
    assert np.allclose(after.ratios, before.ratios, rtol=1e-9, equal_nan=True)


def test_the_key_bias_is_flat():
    """The softmax does not see a shift of all scores, so the key bias has neither gradient nor curvature."""
    bias = Block("bias", Role.KEY, (ParameterSlice("in_proj.bias", (12,), 0, ((4, 8),)),))
    others = tuple(
        Block(name, Role.ENCODER, (ParameterSlice(name, tuple(parameter.shape)),))
        for name, parameter in model().named_parameters() if name != "in_proj.bias"
    )
    flat = hessian(blocks=(bias, *others))
    assert float(flat.gradient()["bias"].abs().max()) < 1e-14
    product = flat.matvec({"bias": torch.ones(4, dtype=torch.float64)})
    assert max(float(part.abs().max()) for part in product.values()) < 1e-13
