"""Probe: one moment of training: the model, its batches, loss and anatomy, and what lenses share about them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from attnscope.anatomy.blocks import Anatomy
from attnscope.anatomy.observe import Observation, observe
from attnscope.case import Expectations, Forward, Loss, default_forward, default_loss
from attnscope.errors import CaseError
from attnscope.undisturbed import undisturbed


@dataclass
class Probe:
    """What a lens is given. Shared quantities are computed once and cached; nothing disturbs the model.

    Attributes:
        model: the unwrapped model.
        batches: one or more batches.
        anatomy: where the attention is.
        forward, loss: as in `Case`, defaults filled in.
        optimizer: or None.
        expects: stated expectations with the inferred ones filled in; `inferred` names the latter.
        step: training step, or None.
        seed: the seed of every random choice that a lens makes.
    """

    model: nn.Module
    batches: tuple[Any, ...]
    anatomy: Anatomy
    forward: Forward = default_forward
    loss: Loss = default_loss
    optimizer: torch.optim.Optimizer | None = None
    expects: Expectations = field(default_factory=Expectations)
    inferred: tuple[str, ...] = ()
    step: int | None = None
    seed: int = 0

    @property
    def batch(self) -> Any:
        """The first batch."""
        return self.batches[0]

    @contextmanager
    def evaluating(self, *, train: bool = False) -> Iterator[nn.Module]:
        """The model in eval mode (or train mode) with fixed randomness, put back exactly afterwards."""
        with undisturbed(self.model, seed=self.seed, train=train) as model:
            yield model

    def output(self, batch: Any = None) -> Any:
        """The model's output in eval mode, without a graph."""
        with self.evaluating() as model, torch.no_grad():
            return self.forward(model, self.batch if batch is None else batch)

    def loss_of(self, model: nn.Module, batch: Any) -> Tensor:
        """The scalar loss, with its graph.

        Raises:
            CaseError: the loss is not one number.
        """
        value = self.loss(self.forward(model, batch), batch)
        if not isinstance(value, Tensor) or value.numel() != 1:
            seen = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise CaseError(f"the loss must be a scalar tensor, found {seen}; reduce it with .mean()")
        return value.reshape(())

    @cached_property
    def observation(self) -> Observation:
        """Queries, keys, values, scores and patterns of the first batch, in eval mode, without a graph."""
        with self.evaluating() as model:
            return observe(model, self.batch, anatomy=self.anatomy, forward=self.forward)

    @cached_property
    def gradients(self) -> Mapping[str, Tensor | None]:
        """Parameter name -> gradient of the loss on the first batch in eval mode; None where no path leads.

        Frozen parameters are included: their gradient is computed as if they were trainable.
        """
        return self.gradients_of(self.batch)

    @cached_property
    def loss_value(self) -> float:
        """The loss on the first batch, in eval mode."""
        with self.evaluating() as model, torch.no_grad():
            return float(self.loss_of(model, self.batch))

    def gradients_of(self, batch: Any, *, train: bool = False) -> Mapping[str, Tensor | None]:
        """As `gradients`, for any batch and in either mode."""
        with self.evaluating(train=train) as model:
            named = dict(model.named_parameters())
            for parameter in named.values():
                if parameter.is_floating_point():
                    parameter.requires_grad_(True)
            loss = self.loss_of(model, batch)
            if not loss.requires_grad:
                raise CaseError("the loss does not depend on any parameter: it was detached or made from constants")
            found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
            return dict(zip(named, found, strict=True))
