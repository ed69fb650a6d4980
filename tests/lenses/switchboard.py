"""A small transformer with a switch for every mistake that an intervention must notice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from attnscope.anatomy.trace import trace
from attnscope.case import Expectations
from attnscope.probe import Probe

PAD = 0


@dataclass
class Switches:
    """Healthy by default. Keys of the mappings are layers."""

    causal: bool = True
    ahead: Mapping[int, int] = field(default_factory=dict)  # the causal mask of a layer allows k positions ahead
    fill: Mapping[int, float] = field(default_factory=dict)
    padding_ignored: tuple[int, ...] = ()
    padding_pooled: bool = False
    across: tuple[int, ...] = ()  # layers that attend over the batch axis
    batch_norm_of_batch: bool = False
    positions: str = "learned"  # learned, none, constant
    pooled: bool = False
    dropout: float = 0.0
    functional_dropout: bool = False
    leaky_convolution: bool = False


class Layer(nn.Module):
    def __init__(self, index: int, switches: Switches) -> None:
        super().__init__()
        self.index, self.switches = index, switches
        self.query, self.key, self.value, self.output = (nn.Linear(16, 16) for _ in range(4))
        self.norm = nn.LayerNorm(16)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.dropout = nn.Dropout(switches.dropout)

    def forward(self, hidden: Tensor, real: Tensor) -> Tensor:
        switches = self.switches
        normed = self.norm(hidden)
        across = self.index in switches.across
        if across:
            normed = normed.transpose(0, 1)
        query, key, value = (split(part(normed)) for part in (self.query, self.key, self.value))
        scores = query @ key.transpose(-1, -2) / 8**0.5
        length = scores.shape[-1]
        fill = switches.fill.get(self.index, float("-inf"))
        if switches.causal and not across:
            ahead = switches.ahead.get(self.index, 0)
            scores = scores.masked_fill(~torch.ones(length, length).tril(ahead).bool(), fill)
        if self.index not in switches.padding_ignored and not across:
            scores = scores.masked_fill(~real[:, None, None, :], -1e9)
        pattern = self.dropout(scores.softmax(-1))
        if switches.functional_dropout and self.index == 1:
            pattern = nn.functional.dropout(pattern, 0.2)
        context = (pattern @ value).transpose(1, 2).flatten(2)
        result = self.output(context)
        if across:
            result = result.transpose(0, 1)
        hidden = hidden + result
        return hidden + self.mlp(hidden)


def split(projected: Tensor) -> Tensor:
    return projected.unflatten(-1, (2, 8)).transpose(1, 2)


class Switchboard(nn.Module):
    def __init__(self, switches: Switches) -> None:
        super().__init__()
        self.switches = switches
        self.tokens = nn.Embedding(23, 16)
        self.positions = nn.Embedding(16, 16)
        self.layers = nn.ModuleList(Layer(index, switches) for index in range(2))
        self.batch_norm = nn.BatchNorm1d(16, track_running_stats=not switches.batch_norm_of_batch)
        self.convolution = nn.Conv1d(16, 16, 3, padding=1)
        self.classifier = nn.Linear(16, 3 if switches.pooled else 23)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        switches = self.switches
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        real = real.bool()
        hidden = self.tokens(input_ids)
        places = torch.arange(input_ids.shape[1])
        if switches.positions == "learned":
            hidden = hidden + self.positions(places)
        elif switches.positions == "constant":
            hidden = hidden + self.positions(torch.zeros_like(places))
        if switches.leaky_convolution:
            hidden = hidden + self.convolution(hidden.transpose(1, 2)).transpose(1, 2)
        for layer in self.layers:
            hidden = layer(hidden, real)
        if switches.batch_norm_of_batch:
            hidden = self.batch_norm(hidden.flatten(0, 1)).view_as(hidden)
        if switches.pooled:
            weight = torch.ones_like(real) if switches.padding_pooled else real
            hidden = (hidden * weight[..., None]).sum(1) / weight.sum(1, keepdim=True)
        return self.classifier(hidden)


def batch_of(switches: Switches, *, padded: bool = True, n: int = 4, length: int = 9) -> tuple[Any, Tensor]:
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(1, 23, (n, length), generator=generator)
    mask = torch.ones_like(ids)
    if padded:
        for row, stop in enumerate((length, 5, 7, 6)[:n]):
            ids[row, stop:], mask[row, stop:] = PAD, 0
    targets = torch.randint(0, 3, (n,), generator=generator) if switches.pooled else ids.roll(-1, 1)
    return {"input_ids": ids, "attention_mask": mask}, targets


def probe_of(switches: Switches | None = None, *, padded: bool = True, **more: Any) -> Probe:
    """A probe on a fresh model with those switches, traced."""
    switches = switches or Switches()
    torch.manual_seed(11)
    return traced(Switchboard(switches), batch_of(switches, padded=padded), **more)


def traced(
    model: nn.Module, batch: Any, *, forward: Callable[..., Any] | None = None, expects: Any = None, **more: Any
) -> Probe:
    """A probe with the anatomy that the trace finds."""
    stated = Expectations.of({"padding_mask": "attention_mask"} if expects is None else expects)
    keywords = {} if forward is None else {"forward": forward}
    anatomy = trace(model, batch, **keywords)
    return Probe(model=model, batches=(batch,), anatomy=anatomy, expects=stated, **keywords, **more)
