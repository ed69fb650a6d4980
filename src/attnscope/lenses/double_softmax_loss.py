"""Whether a loss that normalises its input is given an input that is normalised already."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from attnscope.lenses import Lens
from attnscope.lenses._loss_calls import CLASSES, LOG_CLASSES, YES_NO, LossCall, loss_calls
from attnscope.probe import Probe
from attnscope.readings import Reading

_ENOUGH = 16  # numbers that all lie in [0, 1] by chance: less than one in 2^16, logits being of either sign


@dataclass(frozen=True)
class DoubleSoftmaxLoss(Lens):
    """The share of rows that a loss receives in the wrong form: probabilities where it wants logits.

    **Measures**: for every call of a cross-entropy between the model and the loss, the share of its rows that
    are probabilities already (none negative, sum 1 to rounding); for `nll_loss` the share that are no
    log-probabilities; for a binary cross-entropy with logits 1 when all its inputs lie in [0, 1]. The facts
    say per call what it was given (`given`: `logits`, `probabilities`, `log-probabilities`), by which
    operation it was made, and the user's line (of that operation, else of the call).

    **Reading it**: 0. At 1 the softmax is applied twice: gradients shrink and the loss cannot come near 0.
    Log-probabilities given to a cross-entropy do no harm.

    **Shapes**: (call,).

    **Cost**: one forward pass.

    **Reference**: the contract of `torch.nn.functional.cross_entropy`.
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("call",)
    needs: ClassVar[tuple[str, ...]] = ("loss",)

    def measure(self, probe: Probe) -> Reading:
        """Watches the loss being computed."""
        calls = [call for call in loss_calls(probe) if call.given.is_floating_point() and call.given.ndim]
        if not calls:
            return self.not_applicable("the loss calls no cross-entropy of torch")
        facts = [_described(call) for call in calls]
        return self.reading(
            [fact["share"] for fact in facts],
            coords={"call": tuple(f"{index}: {fact['op']}" for index, fact in enumerate(facts))},
            step=probe.step,
            facts={"calls": facts, "violated": [fact for fact in facts if fact["share"] == 1.0]},
        )


def _described(call: LossCall) -> dict[str, Any]:
    rows = call.by_class
    # The rows were rounded in the model's precision, once per class.
    slack = 8 * torch.finfo(call.given.dtype).eps * max(rows.shape[-1], 8)
    nonnegative = (rows >= 0).all(-1)
    several = rows.shape[-1] > 1
    probabilities = nonnegative & ((rows.sum(-1) - 1).abs() <= slack) & several
    logs = (rows.logsumexp(-1).abs() <= slack) & several
    given = "probabilities" if bool(probabilities.all()) else "log-probabilities" if bool(logs.all()) else "logits"
    if call.op == CLASSES:
        share = float(probabilities.double().mean())
    elif call.op == LOG_CLASSES:
        share = float((~logs).double().mean()) if several else 0.0
    else:
        inside = bool(((rows >= 0) & (rows <= 1)).all()) and rows.numel() >= _ENOUGH
        given = "probabilities" if inside or call.made_by == "sigmoid" else "logits"
        share = float(given == "probabilities") if call.op == YES_NO else 0.0
    place = call.made_at or call.source
    return {
        "op": call.op,
        "given": given,
        "made_by": call.made_by,
        "share": share,
        "source": None if place is None else str(place),
        "text": None if place is None else place.text,
    }
