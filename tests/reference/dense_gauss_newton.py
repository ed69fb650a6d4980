"""The Gauss-Newton and the empirical Fisher matrix from explicit Jacobians, in float64."""

from __future__ import annotations

import copy

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


def jacobian(model, outputs):
    """Rows: entries of `outputs(model)`; columns: all parameters. Also returns the outputs."""
    model = copy.deepcopy(model).double().eval()
    parameters = list(model.parameters())
    with sdpa_kernel(SDPBackend.MATH):
        found = outputs(model)
        rows = []
        for entry in found.reshape(-1):
            row = torch.autograd.grad(entry, parameters, retain_graph=True, allow_unused=True)
            rows.append(torch.cat([
                (torch.zeros_like(p) if r is None else r).reshape(-1) for r, p in zip(row, parameters, strict=True)
            ]))
    return torch.stack(rows), found.detach()


def dense_gauss_newton(model, batch, outputs, loss):
    J, found = jacobian(model, lambda m: outputs(m, batch))
    bend = torch.func.hessian(lambda flat: loss(flat.view(found.shape), batch))(found.reshape(-1))
    return J.T @ bend @ J


def dense_empirical_fisher(model, batch, losses):
    J, _ = jacobian(model, lambda m: losses(m, batch))
    return J.T @ J / len(J)
