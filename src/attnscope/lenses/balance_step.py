"""Whether one step of plain gradient descent moves each head's balance as it must."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from attnscope.lenses import STANDARD, Lens
from attnscope.lenses._balance import Lawful, grams, lawful, moved, rounding
from attnscope.lenses._factors import THRESHOLDS, Factors, precision_of
from attnscope.lenses._optimizer import optimizer_on_trial
from attnscope.lenses._parameters import named
from attnscope.probe import Probe
from attnscope.readings import Reading

SMALL = 0.05  # a step whose movement is not twenty times its rounding says nothing


@dataclass(frozen=True)
class BalanceStep(Lens):
    """Whether a step of plain gradient descent moves the balance of queries and keys exactly as it must.

    **Measures** with C = W_K W_K^T - W_Q W_Q^T of a head, after one step on trial of the user's optimiser:
    |C_after - C_predicted|_F over how far both Gram matrices moved (unit 1), where the prediction is
    (1 - eta lambda)^2 C + eta^2 (G_K G_K^T - G_Q G_Q^T), exact for gradients G, rate eta and L2 decay lambda.

    **Reading it** rounding (`tolerance` in the facts) when the step is the gradient's. About 1: something else
    moves queries or keys during the step, or changes a gradient after the backward pass. Under Adam, momentum or
    different rates for queries and keys there is no law, and nothing is claimed: `skipped` says so.

    **Shapes** [layer, head]; heads are key heads. NaN where no law holds or the step is too small to tell. Facts:
    `tolerance` per [layer][head], `violated`: list of [layer, head], `skipped`: attention -> why, `rate`, `decay`.

    **Cost** two gradients and one step; model and optimiser are put back bit for bit.

    **Reference** derived here from the gradient identity; the conserved quantity is in Sheen et al. 2024,
    arXiv:2403.08699.
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("layer", "head")
    needs: ClassVar[tuple[str, ...]] = ("gradient", "optimizer")
    effort: ClassVar[str] = STANDARD

    def measure(self, probe: Probe) -> Reading:
        """Takes one step, compares, and takes it back."""
        if not isinstance(probe.optimizer, torch.optim.SGD):
            kind = "no optimiser" if probe.optimizer is None else type(probe.optimizer).__name__
            return self.not_applicable(f"{kind}: only plain gradient descent has a law for the balance")
        precision = precision_of(probe)
        laws, skipped = lawful(probe, Factors.of(probe), precision)
        if not laws:
            return self.not_applicable("; ".join(f"{name}: {why}" for name, why in skipped.items())[:500])
        before, after = _step(probe, probe.optimizer)
        if before is None or after is None:
            return self.not_applicable("no gradient reaches a trainable parameter")
        attentions = probe.anatomy.attentions
        values = np.full((len(attentions), max(attention.n_key_heads for attention in attentions)), np.nan)
        tolerances = np.full(values.shape, np.nan)
        for index, item in laws.items():
            for head in range(item.attention.n_key_heads):
                values[index, head], tolerances[index, head] = _compared(item, head, before, after, precision)
        if np.isnan(values).all():
            return self.not_applicable("the step is too small beside rounding to tell how it moves the balance")
        law = next(iter(laws.values())).law
        layers = tuple(attention.layer for attention in attentions)
        return self.reading(
            values,
            coords={"layer": layers, "head": tuple(range(values.shape[1]))},
            step=probe.step,
            facts={
                "tolerance": tolerances.tolist(),
                "violated": [[layers[i], int(j)] for i, j in np.argwhere(values > tolerances)],
                "skipped": skipped,
                "rate": law.rate,
                "decay": law.decay,
            },
        )


def _step(probe: Probe, optimizer: Optimizer) -> tuple[Factors | None, Factors | None]:
    """Weights and gradients before one step on trial, and weights after it."""
    with probe.evaluating(train=True) as model, optimizer_on_trial(optimizer):
        optimizer.zero_grad(set_to_none=True)
        model.zero_grad(set_to_none=True)
        loss = probe.loss_of(model, probe.batch)
        if not loss.requires_grad:
            return None, None
        weights = {name: value.clone() for name, value in named(model).items()}
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = {
            name: torch.zeros_like(value) if value.grad is None else value.grad.detach().clone()
            for name, value in model.named_parameters()
        }
        optimizer.step()
        after: dict[str, Tensor] = {name: value.clone() for name, value in named(model).items()}
    return Factors(weights, gradients, frozenset()), Factors(after, gradients, frozenset())


def _compared(item: Lawful, head: int, before: Factors, after: Factors, precision: str) -> tuple[float, float]:
    """How far the balance is from the prediction, and how far rounding explains, both relative to the movement."""
    was, now = grams(item, before, head), grams(item, after, head)
    gradient = grams(item, before, head, of_gradient=True)
    if was is None or now is None or gradient is None:
        return float("nan"), float("nan")
    law = item.law
    predicted = law.kept * was.balance + law.rate**2 * gradient.balance
    movement, blur = moved(was, now), rounding(was, now, precision)
    if not movement > blur / SMALL:
        return float("nan"), float("nan")
    return float((now.balance - predicted).norm()) / movement, THRESHOLDS[precision] + 2 * blur / movement
