"""Probe: one moment of training: the model, its batches, loss and anatomy, and what lenses share."""

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
from attnscope.case import (
    Expectations,
    Forward,
    Loss,
    checked_loss,
    could_not_run,
    default_forward,
    default_loss,
    described,
)
from attnscope.errors import CaseError
from attnscope.undisturbed import is_unbuilt, seed_everything, undisturbed


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
        start: parameter name -> its value before the first step of training, read-only; None when unknown.
            `Case(start=...)` gives it, and `train` keeps it.
        seed: the seed of every random choice that a lens makes.
        shared: what one lens computed at this moment and another may use again (a Hessian, say).
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
    start: Mapping[str, Tensor] | None = field(default=None, repr=False, compare=False)
    seed: int = 0
    shared: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def batch(self) -> Any:
        """The first batch."""
        return self.batches[0]

    @contextmanager
    def evaluating(self, *, train: bool = False) -> Iterator[nn.Module]:
        """The model in eval mode (or train mode) with fixed randomness, put back exactly afterwards.

        A model that builds parameters in its first forward pass is built first, so that they have names here;
        the seed makes them the same each time.
        """
        with undisturbed(self.model, seed=self.seed, train=train) as model:
            if self._builds_itself:
                with torch.no_grad():
                    self.run(model, self.batch)
                model.train(train)
                seed_everything(self.seed)
            yield model

    @cached_property
    def _builds_itself(self) -> bool:
        """Whether the first forward pass makes parameters or modules that are not there before."""
        if is_unbuilt(self.model):
            return True
        with undisturbed(self.model, seed=self.seed, train=False) as model, torch.no_grad():
            before = {name for name, _ in model.named_parameters()}
            self.run(model, self.batch)
            return {name for name, _ in model.named_parameters()} != before

    def run(self, model: nn.Module, batch: Any) -> Any:
        """The model's output, as `forward` gives it.

        Raises:
            CaseError: the model raises on this batch; says on what, and what it said.
        """
        try:
            return self.forward(model, batch)
        except Exception as error:
            raise CaseError(could_not_run(model, batch, error)) from error

    def output(self, batch: Any = None) -> Any:
        """The model's output in eval mode, without a graph."""
        with self.evaluating() as model, torch.no_grad():
            return self.run(model, self.batch if batch is None else batch)

    def loss_of(self, model: nn.Module, batch: Any) -> Tensor:
        """The scalar loss, with its graph; it may be NaN or infinite, which a lens reports.

        Raises:
            CaseError: the model or the loss raises, or the loss is not one real number.
        """
        output = self.run(model, batch)
        try:
            value = self.loss(output, batch)
        except CaseError:
            raise
        except Exception as error:
            raise CaseError(
                f"the loss raised {type(error).__name__}: {error}; it was given the model's output "
                f"({described(output)}) and the batch ({described(batch)})"
            ) from error
        return checked_loss(value)

    @cached_property
    def observation(self) -> Observation:
        """Queries, keys, values, scores and patterns of the first batch, in eval mode, without a graph."""
        with self.evaluating() as model:
            return observe(model, self.batch, anatomy=self.anatomy, forward=self.forward)

    def observation_of(self, batch: Any) -> Observation:
        """As `observation`, for a batch of the same shapes."""
        with self.evaluating() as model:
            return observe(model, batch, anatomy=self.anatomy, forward=self.forward)

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
                raise CaseError(
                    f"the loss ({float(loss):.4g}) does not depend on any parameter of "
                    f"{type(model).__name__}: it was detached or made from constants; "
                    "return the loss tensor itself"
                )
            try:
                found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
            except RuntimeError as error:
                raise CaseError(f"the loss of {type(model).__name__} cannot be differentiated: {error}") from error
            return dict(zip(named, found, strict=True))
