"""Gives some parameters of an optimiser a group of their own, none, or a second one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


def split_off(
    optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], *, factor: float = 1.0, decay: float = 0.0
) -> None:
    """Multiplies the learning rate of these parameters; a factor of 0 takes them out of the optimiser.

    `decay` is added to their weight decay. Groups keep their other settings. Parameters that the optimiser does
    not hold are passed over.
    """
    chosen = {id(parameter) for parameter in parameters}
    new_groups = []
    for group in optimizer.param_groups:
        mine = [parameter for parameter in group["params"] if id(parameter) in chosen]
        if mine:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in chosen]
            changed = {"weight_decay": group["weight_decay"] + decay} if decay else {}
            new_groups.append({**group, "params": mine, "lr": group["lr"] * factor, **changed})
    if factor > 0:
        optimizer.param_groups += new_groups


def decay_obstacle(optimizer: torch.optim.Optimizer | None, parameters: Sequence[nn.Parameter]) -> str:
    """Why the weight decay of these parameters cannot be changed, or an empty string."""
    if optimizer is None:
        return "the case has no optimiser"
    chosen = {id(parameter) for parameter in parameters}
    groups = [group for group in optimizer.param_groups if chosen & {id(each) for each in group["params"]}]
    if not groups:
        return "the optimiser does not hold these parameters"
    return "" if all("weight_decay" in group for group in groups) else "the optimiser knows no weight decay"


def repeat(optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], *, factor: float) -> None:
    """Gives these parameters a second group, at a multiple of the learning rate; the first one stays.

    Parameters that the optimiser does not hold are passed over.
    """
    chosen = {id(parameter) for parameter in parameters}
    again = []
    for group in optimizer.param_groups:
        mine = [parameter for parameter in group["params"] if id(parameter) in chosen]
        if mine:
            again.append({**group, "params": mine, "lr": group["lr"] * factor})
    optimizer.param_groups += again
