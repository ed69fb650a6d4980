"""The loss of a model on its data as a function of some parameters: what curvature is the curvature of."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attnscope.anatomy.blocks import Block
from attnscope.curvature.batches import cast, examples, listed, n_examples
from attnscope.curvature.determinism import check_repeats, random_operations
from attnscope.curvature.kernels import twice_differentiable
from attnscope.curvature.moment import Moment, check_tensors
from attnscope.curvature.sharded import full, refuse_hidden_parameters
from attnscope.curvature.slices import check_blocks, gather, parameter_blocks, parameters_of, scatter
from attnscope.curvature.weighing import Piece, Weigh, cut_and_weighed
from attnscope.errors import CaseError
from attnscope.undisturbed import undisturbed

BatchLoss = Callable[[nn.Module, Any], Tensor]
DTYPES = (torch.float32, torch.float64)


@dataclass
class Cost:
    """What has been spent.

    Attributes:
        gradients, graphs, products: how many plain gradients, gradients with a graph, and products, each
            over all the data.
        seconds: time spent on them.
        seconds_per_gradient: of one plain gradient over all the data, measured on the way.
    """

    gradients: float = 0.0
    graphs: float = 0.0
    products: float = 0.0
    seconds: float = 0.0
    seconds_per_gradient: float = 0.0

    @property
    def in_gradients(self) -> float:
        """The time spent, in units of one plain gradient."""
        return self.seconds / self.seconds_per_gradient


class Objective:
    """`sum_p c_p loss(model, piece_p)` at one moment, in eval mode, with fixed randomness.

    Args:
        model, batches, loss, blocks, dtype, seed, max_examples, weigh, check, screening: as in `Hessian`.

    Attributes:
        model: looked through `torch.compile` and data-parallel wrappers.
        blocks: block name -> block.
        parameters: name -> private copy, for the parameters that the blocks touch.
        pieces, weighing: the data as cut, and how it is weighed.
        value: the loss.
        gradient: block name -> gradient.
        random: operations that draw random numbers even in eval mode.
        cost: what has been spent.

    Raises:
        CaseError, NotDeterministicError: as `Hessian`.
    """

    def __init__(
        self, model: nn.Module, batches: Iterable[Any], loss: BatchLoss, blocks: Sequence[Block] | None, *,
        dtype: torch.dtype, seed: int, max_examples: int | None, weigh: Weigh | None, check: bool,
        screening: bool = False,
    ) -> None:
        if dtype not in DTYPES:
            raise ValueError(f"dtype must be torch.float32 or torch.float64, found {dtype}")
        if screening and dtype != torch.float32:
            raise ValueError("screening computes in bfloat16 with float32 vectors; leave dtype at float32")
        if max_examples is not None and max_examples < 1:
            raise ValueError(f"max_examples must be at least 1, found {max_examples}")
        self.model = unwrapped(model)
        self.loss = loss
        self.dtype = dtype
        self.seed = seed
        self.screening = screening
        self.cost = Cost()
        refuse_hidden_parameters(self.model)
        check_tensors(self.model)
        named = dict(self.model.named_parameters())
        given = check_blocks(parameter_blocks(self.model) if blocks is None else blocks, named)
        self.blocks: Mapping[str, Block] = {block.name: block for block in given}
        self.moment = Moment(self.model, dtype, frozenset(parameters_of(given)))
        self.parameters = {name: self.moment.parameters[name] for name in parameters_of(given)}
        self._devices = {parameter.device.type for parameter in self.parameters.values()}
        self.random: tuple[str, ...] = ()
        self._last_seconds = 0.0
        data = [cast(batch, dtype) for batch in listed(batches)]
        with self.computing():
            self.weighing, self.pieces = cut_and_weighed(
                data, max_examples, weigh, self._flat_gradient,
                # Casting to bfloat16 rounds alike in the whole and in its parts, but sums differ.
                0.02 if screening else 1e4 * torch.finfo(dtype).eps,
            )
            self.value, self.gradient = self._first_pass(check)
            self._check_no_strangers()

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Kernels, precision and the private copies in place; the time counts as spent."""
        start = time.perf_counter()
        kernels = twice_differentiable(self.model, self.dtype, autocast_allowed=self.screening)
        with kernels, self.moment.standing():
            try:
                yield
            finally:
                self.cost.seconds += time.perf_counter() - start

    @contextmanager
    def forwarding(self) -> Iterator[None]:
        """Around a forward pass: what it changes in the copies, in caches or in random state is undone."""
        with undisturbed(self.model, seed=self.seed):
            yield

    def loss_of(self, piece: Piece) -> Tensor:
        """The loss of one piece, with its graph; to be called while `computing` and `forwarding`.

        Raises:
            CaseError: it is not one floating-point number.
        """
        with ExitStack() as stack:
            for device in self._devices if self.screening else ():
                stack.enter_context(torch.autocast(device, torch.bfloat16))
            value = self.loss(self.model, piece.data)
        if not isinstance(value, Tensor) or value.numel() != 1:
            seen = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise CaseError(
                f"the loss must be a tensor with one number, found {seen}; reduce it with .mean()"
            )
        if not value.is_floating_point():
            raise CaseError(f"the loss must be a floating-point tensor, found {value.dtype}")
        return value.reshape(())

    def differentiate(self, loss: Tensor, *, create_graph: bool = False) -> dict[str, Tensor | None]:
        """Parameter name -> gradient; None where the loss does not depend on the parameter.

        Raises:
            CaseError: the loss has no graph.
        """
        if not loss.requires_grad:
            raise CaseError(
                "the loss does not depend on any of the blocks' parameters: it was detached, computed under "
                "no_grad, or made from constants"
            )
        leaves = list(self.parameters.values())
        try:
            found = torch.autograd.grad(loss, leaves, create_graph=create_graph, allow_unused=True)
        except RuntimeError as error:
            if "use_reentrant" in str(error):
                raise CaseError(
                    "the model uses reentrant activation checkpointing, which cannot be differentiated twice: "
                    "pass use_reentrant=False to torch.utils.checkpoint.checkpoint"
                ) from error
            raise
        if all(gradient is None for gradient in found):
            raise CaseError(
                "the loss depends on none of the blocks' parameters, though it has a graph: the model computes with "
                "other tensors than those it shows as parameters"
            )
        return dict(zip(self.parameters, found, strict=True))

    def evaluate(self, piece: Piece) -> tuple[Tensor, dict[str, Tensor | None]]:
        """Loss and gradients of one piece, without a graph."""
        with self.forwarding():
            start = time.perf_counter()
            loss = self.loss_of(piece)
            gradients = self.differentiate(loss)
            self._last_seconds = time.perf_counter() - start
            return loss.detach(), gradients

    def point(self) -> dict[str, Tensor]:
        """Block name -> the parameters, flat."""
        return {name: gather(block, self.parameters, self.parameters).detach() for name, block in self.blocks.items()}

    def gradient_at(self, direction: Mapping[str, Tensor], length: float) -> dict[str, Tensor]:
        """Block name -> the gradient a step away from the objective's point, to which it then returns.

        Raises:
            CaseError: parameters are spread over devices, which cannot be moved under a kept graph.
        """
        steps: dict[str, Tensor] = {}
        for name, vector in direction.items():
            scatter(self.blocks[name], vector, steps, self.parameters)
        if any(full(self.parameters[name]) is not self.parameters[name] for name in steps):
            raise CaseError(
                "differences of the gradient are not taken for parameters that are spread over devices; check the "
                "model before parallelize_module"
            )
        sums: dict[str, Tensor] = {}
        with self.computing():
            kept = {name: self.parameters[name].data for name in steps}
            try:
                for name, step in steps.items():
                    # A new tensor under the leaf: kept graphs hold the old one.
                    self.parameters[name].data = kept[name] + length * step
                for piece in self.pieces:
                    _, found = self.evaluate(piece)
                    self._add(found, piece.coefficient, sums)
            finally:
                for name, data in kept.items():
                    self.parameters[name].data = data
        self.cost.gradients += 1
        return sums

    def _first_pass(self, check: bool) -> tuple[float, dict[str, Tensor]]:
        """Loss and gradient over all the data; checked to repeat and to be finite."""
        total = 0.0
        sums: dict[str, Tensor] = {}
        for piece in self.pieces:
            loss, found = self._checked(piece) if check and piece.start == 0 else self.evaluate(piece)
            self.cost.seconds_per_gradient += self._last_seconds
            if not bool(loss.isfinite()):
                raise CaseError(
                    f"the loss on batch {piece.batch} is {float(loss)}{self._guilty(piece)}; curvature needs "
                    "a finite loss"
                )
            total += piece.coefficient * float(loss)
            self._add(found, piece.coefficient, sums)
        self.cost.gradients += 1
        for name, vector in sums.items():
            if not bool(vector.isfinite().all()):
                raise CaseError(
                    f"the loss is finite ({total:.6g}) but its gradient in block {name!r} is not; look for a "
                    "square root, logarithm, norm or division at zero"
                )
        return total, sums

    def _add(self, found: dict[str, Tensor | None], coefficient: float, sums: dict[str, Tensor]) -> None:
        """Adds a piece's gradients to the sums by block, without a copy that is not needed."""
        for name, block in self.blocks.items():
            vector = gather(block, found, self.parameters)
            vector = vector if coefficient == 1.0 else vector * coefficient
            sums[name] = sums[name] + vector if name in sums else vector

    def _checked(self, piece: Piece) -> tuple[Tensor, dict[str, Tensor | None]]:
        """The first piece of a batch, twice."""

        def forward() -> None:
            with self.forwarding():
                self.loss_of(piece)

        if piece.batch == 0:
            self.random = random_operations(forward)
        where = f"loss and gradient on batch {piece.batch}"
        return check_repeats(lambda: self.evaluate(piece), forward, where)

    def _guilty(self, piece: Piece) -> str:
        """Which examples alone have a loss that is not finite."""
        count = n_examples(piece.data) or 0
        bad = []
        for index in range(count if count > 1 else 0):
            alone = Piece(piece.batch, piece.start + index, examples(piece.data, index, index + 1))
            try:
                with self.forwarding(), torch.no_grad():
                    if not bool(self.loss_of(alone).isfinite()):
                        bad.append(alone.start)
            except Exception:  # the model may not take a single example; then none is named
                return ""
        if not bad or len(bad) == count:
            return ""
        return f", because of example {', '.join(map(str, bad[:5]))}"

    def _check_no_strangers(self) -> None:
        """Refuses a loss that reaches the model's own parameters past the copies."""
        originals = [tensor for tensor in self.moment.originals if tensor.requires_grad]
        if not originals:
            return
        with self.forwarding():
            # Nothing is computed here unless a path exists.
            found = torch.autograd.grad(self.loss_of(self.pieces[0]), originals, allow_unused=True)
        if any(gradient is not None for gradient in found):
            raise CaseError(
                "the loss uses parameters that were taken from the model beforehand (a list of them in a "
                "penalty, say); take them from the model that is passed to loss(model, batch)"
            )

    def _flat_gradient(self, data: Any) -> Tensor:
        _, found = self.evaluate(Piece(0, 0, data))
        return torch.cat([
            full(torch.zeros_like(self.parameters[name]) if tensor is None else tensor).detach().flatten().cpu()
            for name, tensor in found.items()
        ])


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside `torch.compile`, `DataParallel` and `DistributedDataParallel`."""
    while True:
        inner: object = getattr(model, "_orig_mod", None)
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner
