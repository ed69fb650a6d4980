"""The trained model in bfloat16, as for inference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attnscope.anatomy.blocks import Anatomy
from attnscope.bench.controls import Control
from attnscope.case import Case, default_forward


@dataclass(frozen=True)
class Bfloat16(Control):
    """Casts the trained model, and what floating numbers it is given, to bfloat16.

    **Changes**: 8 of 24 bits of every weight's mantissa stay. The optimiser is left out: nobody trains on so.

    **Why it is healthy**: trained networks are robust to rounding, and most are served in this format.
    """

    preserves: ClassVar[bool] = False

    def change(self, case: Case, anatomy: Anatomy) -> None:
        """Casts."""
        forward = case.forward or default_forward
        case.model.to(torch.bfloat16)
        case.optimizer = None
        if any(value.is_floating_point() for batch in case.batches for value in _tensors(batch)):

            def in_half(model: nn.Module, batch: Any) -> Any:
                return forward(model, _cast(batch))

            case.forward = in_half


def _tensors(batch: Any) -> list[Tensor]:
    if isinstance(batch, Tensor):
        return [batch]
    parts = batch.values() if isinstance(batch, dict) else batch
    return [found for part in parts for found in _tensors(part)]


def _cast(batch: Any) -> Any:
    if isinstance(batch, Tensor):
        return batch.bfloat16() if batch.is_floating_point() else batch
    if isinstance(batch, dict):
        return {key: _cast(value) for key, value in batch.items()}
    return type(batch)(_cast(value) for value in batch)
