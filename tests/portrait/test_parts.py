"""The Hessian's two parts against dense matrices, and the losses that they can be taken of."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from attnscope import Case
from attnscope.errors import CaseError
from attnscope.portrait import parts as module
from attnscope.portrait.portrait import Request, portray
from reference.curvature_cases import TinyAttention, tiny_batch, tiny_loss

ASKED = Request(measures=("spectrum",), gauss_newton=True, double=True)


def dense(model: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Hessian and Gauss-Newton matrix in the fused query-key-value weights and biases, by autograd alone."""
    model = model.double()
    tokens, targets = tiny_batch()
    held = {name: parameter.detach() for name, parameter in model.named_parameters()}
    shapes = {name: held[name].shape for name in ("in_proj.weight", "in_proj.bias")}
    flat = torch.cat([held[name].flatten() for name in shapes])

    def logits(vector: torch.Tensor) -> torch.Tensor:
        pieces = torch.split(vector, [shape.numel() for shape in shapes.values()])
        placed = {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            return torch.func.functional_call(model, {**held, **placed}, (tokens,))

    model.eval()
    hessian = torch.autograd.functional.hessian(lambda vector: F.cross_entropy(logits(vector), targets), flat)
    jacobian = torch.autograd.functional.jacobian(logits, flat).flatten(0, 1)
    out = logits(flat)
    inner = torch.autograd.functional.hessian(lambda z: F.cross_entropy(z.view_as(out), targets), out.flatten())
    return hessian, jacobian.T @ inner @ jacobian


def rows(which: int) -> torch.Tensor:
    """Where query (0) or key (1) stands in the flat vector: its third of the weight (12 x 4) and of the bias."""
    return torch.cat([torch.arange(16) + 16 * which, 48 + torch.arange(4) + 4 * which])


@pytest.fixture(scope="module")
def trained() -> TinyAttention:
    torch.manual_seed(0)
    model = TinyAttention()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        tiny_loss(model, tiny_batch()).backward()
        optimizer.step()
    return model.eval()


def test_both_parts_against_dense_matrices(trained: TinyAttention, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROBES", 200)
    readings = portray(Case(trained, [tiny_batch()]), ASKED).readings
    hessian, first = dense(_copy(trained))
    q, k = rows(0), rows(1)
    found = readings["norm_by_part"]
    scale = (hessian[q][:, q].norm() * hessian[k][:, k].norm()).sqrt()
    for row, matrix in enumerate((hessian, first, hessian - first)):
        for name, at in (("L0.Q", q), ("L0.K", k)):
            column = found.labels("block").index(name)
            exact, error = float(matrix[at][:, at].norm()), float(found.stderr[row, column])
            assert abs(found.values[row, column] - exact) < 5 * error + 1e-9
            traces = readings["trace_by_part"]
            trace, error = float(matrix[at][:, at].trace()), float(traces.stderr[row, column])
            assert abs(traces.values[row, column] - trace) < 5 * error + 1e-9
        pair = readings["query_key_by_part"]
        assert pair.labels("pair") == ("L0.Q, L0.K",)
        assert abs(pair.values[row, 0] - float(matrix[q][:, k].norm() / scale)) < 5 * pair.stderr[row, 0]
    # Near convergence the Gauss-Newton part misses most of what couples query and key.
    assert pair.values[1, 0] < 0.4 * pair.values[0, 0]


def _copy(model: TinyAttention) -> TinyAttention:
    found = TinyAttention()
    found.load_state_dict(model.state_dict())
    return found


class Labelled(nn.Module):
    """Computes its loss itself, as models of transformers do."""

    def __init__(self, model: nn.Module, smoothing: float = 0.0):
        super().__init__()
        self.model, self.smoothing = model, smoothing

    def forward(self, tokens, labels):
        logits = self.model(tokens)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.smoothing)
        return SimpleNamespace(loss=loss, logits=logits)


def coupled(case: Case) -> np.ndarray:
    """Query and key have the same names, and so the same probes, however the model is wrapped."""
    return portray(case, ASKED).readings["query_key_by_part"].values


def test_a_loss_inside_the_model_is_recognised(trained: TinyAttention) -> None:
    tokens, labels = tiny_batch()
    own = coupled(Case(Labelled(trained), [{"tokens": tokens, "labels": labels}]))
    assert own == pytest.approx(coupled(Case(trained, [(tokens, labels)])), rel=1e-6)


def test_a_loss_of_one_output_among_several(trained: TinyAttention) -> None:
    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = trained

        def forward(self, tokens):
            return {"hidden": self.model.embedding(tokens), "scores": self.model(tokens)}

    case = Case(Several(), [tiny_batch()], loss=lambda output, batch: F.cross_entropy(output["scores"], batch[1]))
    assert coupled(case) == pytest.approx(coupled(Case(trained, [tiny_batch()])), rel=1e-6)


def test_an_unknown_loss_is_said(trained: TinyAttention) -> None:
    tokens, labels = tiny_batch()
    case = Case(Labelled(trained, smoothing=0.3), [{"tokens": tokens, "labels": labels}])
    with pytest.raises(CaseError, match="computes its loss itself"):
        coupled(case)
    quietly = portray(case, Request(measures=("spectrum",)))
    assert any("no Gauss-Newton part: the model computes its loss itself" in note for note in quietly.facts["notes"])


def test_it_is_left_out_where_it_would_double_the_cost(
    trained: TinyAttention, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PROBES", 1_000_000)
    found = portray(Case(trained, [tiny_batch()]), Request(measures=("spectrum",)))
    assert "norm_by_part" not in found.readings
    assert any("--gauss-newton measures it" in note for note in found.facts["notes"])
