"""The recurrent modules of a model, in the order in which they are registered, and their blocks."""

from __future__ import annotations

from torch import nn

from attnscope.anatomy.blocks import Anatomy


def recurrent_modules(model: nn.Module) -> list[tuple[str, nn.RNNBase]]:
    """Path and module of each."""
    return [(path, module) for path, module in model.named_modules() if isinstance(module, nn.RNNBase)]


def recurrent_blocks(anatomy: Anatomy) -> list[str]:
    """Names of the blocks that hold recurrent weights, in the same order."""
    return [block.name for block in anatomy.blocks if any("weight_hh_l" in piece.parameter for piece in block.slices)]


def obstacle_of_direction(model: nn.Module, number: int) -> str:
    """Why the backward direction of a recurrent module cannot be changed, or an empty string."""
    found = recurrent_modules(model)
    if not -len(found) <= number < len(found):
        return f"the model has {len(found)} recurrent modules, so there is no number {number}"
    module = found[number][1]
    if not module.bidirectional:
        return f"{found[number][0]} reads in one direction only"
    return ""
