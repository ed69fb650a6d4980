"""Products in bfloat16: close enough to screen, never silently the source of a small curvature."""

import numpy as np
import pytest
import torch

from attnscope.curvature.coupling import coupling
from attnscope.curvature.hessian import Hessian
from reference.curvature_cases import TinyAttention, tiny_batch, tiny_blocks, tiny_loss


def wide():
    torch.manual_seed(0)
    model = TinyAttention(width=32, heads=4)
    return model, tiny_blocks(model, 32)


def test_block_norms_are_close():
    model, blocks = wide()
    exact = Hessian(model, [tiny_batch()], tiny_loss, blocks, dtype=torch.float64)
    quick = Hessian(model, [tiny_batch()], tiny_loss, blocks, screening=True)
    one, other = (coupling(operator, n_probes=4) for operator in (exact, quick))
    own = np.diag(other.norms) / np.diag(one.norms)
    assert own == pytest.approx(1, abs=0.02)
    assert quick.rounding == 2**-7
    assert exact.rounding < 1e-15
    # It really was computed in bfloat16.
    vector = torch.ones(quick.sizes["mlp"])
    assert not torch.allclose(quick.own("mlp", vector), exact.own("mlp", vector.double()).float(), rtol=1e-4)


def test_a_block_below_rounding_has_no_coupling():
    model, blocks = wide()
    with torch.no_grad():  # the classifier hardly sees the attention: its curvature drowns in rounding
        model.out_proj.weight.mul_(1e-4)
    quick = coupling(Hessian(model, [tiny_batch()], tiny_loss, blocks, screening=True), n_probes=3)
    exact = coupling(Hessian(model, [tiny_batch()], tiny_loss, blocks, dtype=torch.float64), n_probes=3)
    assert np.isnan(quick.ratio("L0.Q", "mlp").value)
    assert np.isfinite(exact.ratio("L0.Q", "mlp").value)
    assert np.isfinite(quick.ratio("mlp", "classifier").value)


def test_splitting_still_reads_the_weighing():
    model, blocks = wide()
    quick = Hessian(model, [tiny_batch()], tiny_loss, blocks, screening=True, max_examples=5)
    assert quick.objective.weighing == "examples"


def test_screening_is_float32_outside():
    model, blocks = wide()
    with pytest.raises(ValueError, match="leave dtype at float32"):
        Hessian(model, [tiny_batch()], tiny_loss, blocks, dtype=torch.float64, screening=True)
