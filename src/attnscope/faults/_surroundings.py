"""What stands around an attention: its feed-forward network, its normalisation, the model's output; and hooks on them.

A hook is a small object on a module. It holds numbers at most, and gets the module handed in, so that a deep
copy of the model has its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attnscope.anatomy.blocks import Anatomy, Attention, Block, Role
from attnscope.case import Case, default_forward

EPSILONS = ("eps", "variance_epsilon", "epsilon")  # what modules that normalise call it
Change = Callable[[nn.Module, Tensor], Tensor]


def mlp_blocks(anatomy: Anatomy, attention: Attention) -> tuple[Block, ...]:
    """The blocks of the feed-forward network of an attention's layer, in the order of use."""
    return tuple(
        block for block in anatomy.blocks if block.role is Role.MLP and block.layer == attention.layer
    )


def mlp_linears(model: nn.Module, anatomy: Anatomy, attention: Attention) -> list[nn.Module]:
    """The modules that own the weight matrices of that network, in the order of use."""
    pieces = [piece for block in mlp_blocks(anatomy, attention) for piece in block.slices if len(piece.shape) == 2]
    paths = dict.fromkeys(piece.parameter.rpartition(".")[0] for piece in pieces)
    return [model.get_submodule(path) for path in paths]


def mlp_obstacle(case: Case, anatomy: Anatomy, attention: Attention) -> str:
    """Why the network of a layer is not one of two linear maps, or an empty string."""
    linears = mlp_linears(case.model, anatomy, attention)
    if not linears:
        return "no feed-forward network stands beside this attention"
    if len(linears) != 2:
        return f"the feed-forward network of this layer has {len(linears)} linear maps, not two"
    up, down = (shapes_of(case, linear) for linear in linears)
    if up is None or down is None:
        return "the feed-forward network is used without a call of its modules"
    return "" if up[1] == down[0] else "the second linear map does not take what the first one gives"


def norm_module(model: nn.Module, anatomy: Anatomy, attention: Attention) -> nn.Module | None:
    """The module of the first normalisation beside an attention; None when there is none."""
    if not attention.norms:
        return None
    return model.get_submodule(anatomy.block(attention.norms[0]).slices[0].parameter.rpartition(".")[0])


def epsilon_of(module: nn.Module) -> str:
    """The attribute that holds a normalisation's epsilon, or an empty string."""
    return next((name for name in EPSILONS if isinstance(getattr(module, name, None), float)), "")


def classifier_block(anatomy: Anatomy) -> Block | None:
    """The block that makes the logits; None when the model has none of its own (it may share the embedding)."""
    found = [block for block in anatomy.blocks if block.role is Role.CLASSIFIER]
    return found[-1] if found else None


def embedding_block(anatomy: Anatomy) -> Block | None:
    """The first table of tokens, or None."""
    return next(
        (block for block in anatomy.blocks if block.role is Role.EMBEDDING and len(block.slices[0].shape) == 2), None
    )


def table_obstacle(anatomy: Anatomy) -> str:
    """Why no table of tokens can be changed, or an empty string."""
    return "" if embedding_block(anatomy) is not None else "the model has no table of tokens"


def table_places(anatomy: Anatomy) -> tuple[str, ...]:
    """The name of the table of tokens; nothing where there is none."""
    block = embedding_block(anatomy)
    return (block.name,) if block is not None else ()


def head_places(anatomy: Anatomy) -> tuple[str, ...]:
    """What names the end of the model: its classifier, or the embedding that it shares."""
    block = classifier_block(anatomy) or embedding_block(anatomy)
    return (block.name,) if block is not None else ("model",)


def logits_of(output: Any) -> Tensor | None:
    """The logits in a model's output."""
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", output)
    if isinstance(found, tuple | list) and found:
        found = found[0]
    return found if isinstance(found, Tensor) else None


def head_module(case: Case) -> nn.Module | None:
    """The innermost module whose output is the model's logits; None when no module's is."""
    outputs: list[tuple[nn.Module, Any]] = []

    def see(module: nn.Module, _: Any, output: Any) -> None:
        outputs.append((module, output))

    handles = [module.register_forward_hook(see) for module in case.model.modules() if module is not case.model]
    try:
        logits = logits_of(run_quietly(case))
    finally:
        for handle in handles:
            handle.remove()
    return next((module for module, output in outputs if output is logits and logits is not None), None)


def shapes_of(case: Case, module: nn.Module) -> tuple[torch.Size, torch.Size] | None:
    """Shapes of a module's first input and of its output on the first batch; None when it is not called."""
    seen: list[tuple[torch.Size, torch.Size]] = []

    def see(_: Any, args: tuple[Any, ...], output: Any) -> None:
        if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
            seen.append((args[0].shape, output.shape))

    handle = module.register_forward_hook(see)
    try:
        run_quietly(case)
    finally:
        handle.remove()
    return seen[0] if seen else None


def run_quietly(case: Case) -> Any:
    """The output on the first batch in eval mode; random state and mode are as before."""
    was_training = case.model.training
    case.model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng():
            return (case.forward or default_forward)(case.model, next(iter(case.batches)))
    finally:
        case.model.train(was_training)


@dataclass
class OutputChange:
    """A forward hook that changes a tensor that a module puts out."""

    change: Change

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """The changed output."""
        return self.change(module, output)


@dataclass
class InputChange:
    """A forward pre-hook that changes a module's first input."""

    change: Change

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments with the first one changed."""
        return (self.change(module, args[0]), *args[1:])


def change_output(module: nn.Module, change: Change) -> None:
    """From now on the module puts out what `change(module, output)` gives."""
    module.register_forward_hook(OutputChange(change))


def change_input(module: nn.Module, change: Change) -> None:
    """From now on the module gets what `change(module, input)` gives."""
    module.register_forward_pre_hook(InputChange(change))
