"""How far each head's balance drifted since the start of a training that must keep it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from attnscope.errors import CaseError
from attnscope.lenses import STANDARD, Lens
from attnscope.lenses._balance import Lawful, grams, lawful, moved, rounding
from attnscope.lenses._factors import Factors, precision_of
from attnscope.lenses._low_rank import zeros_where_unreached
from attnscope.probe import Probe
from attnscope.readings import Reading

SMALL = 0.05


@dataclass(frozen=True)
class BalanceDrift(Lens):
    """How far the balance of queries and keys drifted since training began, where plain descent must keep it.

    **Measures** with C = W_K W_K^T - W_Q W_Q^T of a head, C_0 at the start and rho = (1 - eta lambda)^(2 steps):
    |C - rho C_0|_F over how far both Gram matrices moved beyond rho (unit 1). Gradient flow keeps it at 0
    (exp(-2 lambda t) of C_0 is left under L2 decay lambda); steps of finite size add about eta^2 |gradient|^2 each.

    **Reading it** near 0: queries and keys moved together, as the gradient of any loss makes them. Near 1: one side
    was moved by something that is not this loss's gradient. `allowance` in the facts is what the finite steps
    explain. Under Adam, momentum, or different rates for queries and keys there is no law, and nothing is claimed.

    **Shapes** [layer, head]; heads are key heads. NaN where no law holds or the head has hardly moved. Facts, each
    per [layer][head]: `allowance` (NaN when the number of steps is not known), `left`: |C|/|C_0|; and `expected_left`
    (rho), `rate`, `decay`, `steps`, `skipped`: attention -> why.

    **Cost** a gradient per batch at the start and now.

    **Reference** derived here from the gradient identity; the conserved quantity is in Sheen et al. 2024,
    arXiv:2403.08699, the decay in Kobayashi et al. 2024, arXiv:2410.23819.
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("layer", "head")
    needs: ClassVar[tuple[str, ...]] = ("weights", "gradient", "optimizer")
    effort: ClassVar[str] = STANDARD

    def measure(self, probe: Probe) -> Reading:
        """Compares the balance with the start's."""
        if probe.start is None:
            return self.not_applicable("the weights before training are not known; pass Case(..., start=...)")
        if type(probe.optimizer) is not torch.optim.SGD:
            kind = "no optimiser" if probe.optimizer is None else type(probe.optimizer).__name__
            return self.not_applicable(f"{kind}: only plain gradient descent has a law for the balance")
        precision = precision_of(probe)
        now = Factors.of(probe)
        laws, skipped = lawful(probe, now, precision)
        for index in [index for index, item in laws.items() if (why := _why_not(probe, now, item))]:
            skipped[laws[index].attention.name] = why
            del laws[index]
        if not laws:
            return self.not_applicable("; ".join(f"{name}: {why}" for name, why in skipped.items())[:500])
        squares = _gradient_squares(probe, laws)
        start = Factors({**now.weights, **probe.start}, now.gradients, now.unreached)
        attentions = probe.anatomy.attentions
        shape = (len(attentions), max(attention.n_key_heads for attention in attentions))
        values, allowances, left = (np.full(shape, np.nan) for _ in range(3))
        for index, item in laws.items():
            kept = item.law.kept ** (probe.step or 0)
            for head in range(item.attention.n_key_heads):
                was, is_now = grams(item, start, head), grams(item, now, head)
                if was is None or is_now is None:
                    continue
                movement = moved(was, is_now, kept)
                if not movement > rounding(was, is_now, precision) / SMALL:
                    continue
                values[index, head] = float((is_now.balance - kept * was.balance).norm()) / movement
                left[index, head] = float(is_now.balance.norm()) / max(float(was.balance.norm()), 1e-300)
                if probe.step is not None:
                    total = probe.step * item.law.highest**2 * squares.get((index, head), np.nan)
                    allowances[index, head] = total / movement
        if np.isnan(values).all():
            return self.not_applicable("no head has moved enough since the start to tell")
        law = next(iter(laws.values())).law
        coords: dict[str, Any] = {"layer": tuple(item.layer for item in attentions), "head": tuple(range(shape[1]))}
        return self.reading(
            values,
            coords=coords,
            step=probe.step,
            facts={
                "allowance": allowances.tolist(),
                "left": left.tolist(),
                "expected_left": law.kept ** (probe.step or 0),
                "rate": law.rate,
                "decay": law.decay,
                "steps": probe.step,
                "skipped": skipped,
            },
        )


def _why_not(probe: Probe, factors: Factors, item: Lawful) -> str:
    """Why the law of one step does not carry over the steps since the start; empty when it does."""
    names = {piece.parameter for role in ("query", "key") for piece in factors.pieces(item.attention, role)}
    if not names <= set(probe.start or {}):
        return "the start lacks queries or keys"
    if item.law.decay and probe.step is None:
        return "there is weight decay, and the number of steps is not known"
    if item.law.decay and item.law.scheduled:
        return "there is weight decay, and a schedule has changed the rate"
    return ""


def _gradient_squares(probe: Probe, laws: dict[int, Lawful]) -> dict[tuple[int, int], float]:
    """(attention, head) -> the largest |G_K|^2 + |G_Q|^2 over the batches, at the start and now."""
    found: dict[tuple[int, int], float] = {}

    def keep(gradients: Any) -> None:
        factors = Factors.of(probe)
        factors = Factors(factors.weights, zeros_where_unreached(factors.weights, gradients), factors.unreached)
        for index, item in laws.items():
            for head in range(item.attention.n_key_heads):
                gram = grams(item, factors, head, of_gradient=True)
                if gram is not None:
                    found[index, head] = max(found.get((index, head), 0.0), gram.size)

    for batch in probe.batches:
        keep(probe.gradients_of(batch))
    try:
        with probe.evaluating() as model:
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if name in (probe.start or {}):
                        parameter.copy_((probe.start or {})[name])
            at_start = [probe.gradients_of(batch) for batch in probe.batches]
    except CaseError:  # the start may be one at which the loss is not defined
        return found
    for gradients in at_start:
        keep(gradients)
    return found
