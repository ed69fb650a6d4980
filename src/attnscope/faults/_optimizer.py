"""Gives some parameters of an optimiser a group of their own, or none."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


def split_off(optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], *, factor: float) -> None:
    """Multiplies the learning rate of these parameters; a factor of 0 takes them out of the optimiser.

    Groups keep their other settings. Parameters that the optimiser does not hold are passed over.
    """
    chosen = {id(parameter) for parameter in parameters}
    new_groups = []
    for group in optimizer.param_groups:
        mine = [parameter for parameter in group["params"] if id(parameter) in chosen]
        if mine:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in chosen]
            new_groups.append({**group, "params": mine, "lr": group["lr"] * factor})
    if factor > 0:
        optimizer.param_groups += new_groups
