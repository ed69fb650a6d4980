"""The same numbers as hessian-eigenthings, where that library is right."""

import pytest
import torch

from attnscope.anatomy.blocks import Block, ParameterSlice, Role
from attnscope.curvature.hessian import Hessian
from attnscope.curvature.hutchinson import trace
from attnscope.curvature.lanczos import lanczos

peer = pytest.importorskip("hessian_eigenthings")


def operators(tiny):
    """Both operators; the peer needs attention without a fused kernel, and a model in eval mode."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def loss(model, batch):
        with sdpa_kernel(SDPBackend.MATH):
            return tiny.loss(model, batch)

    ours = Hessian(tiny.model, [tiny.batch], tiny.loss, dtype=torch.float64)
    return ours, peer.HessianOperator(tiny.model.double().eval(), [tiny.batch], loss)


def split(ours, flat):
    return dict(zip(ours.names, flat.split(list(ours.sizes.values())), strict=True))


def test_products_agree(moment):
    ours, theirs = operators(moment)
    for seed in range(3):
        vector = torch.randn(sum(ours.sizes.values()), dtype=torch.float64,
                             generator=torch.Generator().manual_seed(seed))
        expected = theirs.matvec(vector)
        found = torch.cat(list(ours.matvec(split(ours, vector)).values()))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_top_eigenvalue_agrees(moment):
    _, theirs = operators(moment)
    named = moment.model.named_parameters()
    whole = Block("all", Role.ENCODER, tuple(ParameterSlice(name, tuple(p.shape)) for name, p in named))
    ours = Hessian(moment.model, [moment.batch], moment.loss, (whole,), dtype=torch.float64)
    found = lanczos(ours, max_steps=60, tolerance=1e-8)["all"]
    expected = peer.lanczos(theirs, k=1, which="LA", max_iter=60, tol=1e-8, reorthogonalize=True, seed=0)
    assert found.top == pytest.approx(float(expected.eigenvalues[0]), rel=1e-6)


def test_traces_agree_within_both_error_bars(tiny):
    ours, theirs = operators(tiny)
    mine = trace(ours, n_probes=100)
    value = sum(item.value for item in mine.values())
    error = sum(item.stderr**2 for item in mine.values())
    other = peer.trace(theirs, num_matvecs=600, method="hutchinson", seed=0)
    assert abs(value - float(other.estimate)) <= 4 * (error + float(other.stderr) ** 2) ** 0.5
