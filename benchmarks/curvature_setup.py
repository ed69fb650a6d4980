"""What the curvature benchmarks measure on: a model, a batch, its 36 blocks, and a clock."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attnscope.anatomy.blocks import Block, ParameterSlice, Role
from attnscope.models.distilbert import Distilbert, weights_folder
from attnscope.tasks.movie_reviews import MovieReviews


@dataclass(frozen=True)
class Size:
    """Layers, width, heads, vocabulary, batch and length."""

    layers: int = 6
    width: int = 240
    heads: int = 12
    vocabulary: int = 5000
    batch: int = 8
    length: int = 32
    pretrained: bool = False

    def __str__(self) -> str:
        kind = "pre-trained weights of all-MiniLM-L6-v2 in DistilBERT" if self.pretrained else "DistilBERT"
        return (
            f"{kind} {self.layers} x {self.width}, {self.heads} heads, vocabulary {self.vocabulary}, "
            f"batch {self.batch}, length {self.length}"
        )


SIZES = {
    "tiny": Size(2, 48, 4, 200, 4, 16),
    "small": Size(),
    "pretrained": Size(6, 384, 12, 30522, 8, 32, pretrained=True),
    "base": Size(6, 768, 12, 30522, 16, 64),
}


@dataclass
class Setup:
    """A model in eval mode on one batch, random or trained a little."""

    size: Size
    model: nn.Module
    batch: dict[str, Tensor]
    blocks: tuple[Block, ...]

    @classmethod
    def of(cls, size: Size, *, attention: str = "eager", training: int = 0) -> Setup:
        """The model, its projection and feed-forward weights as blocks, and a batch that can be learned."""
        model = Distilbert(
            n_layers=size.layers, d_model=size.width, n_heads=size.heads, d_mlp=4 * size.width,
            n_tokens=size.vocabulary, n_positions=max(size.length, 64), attention=attention,
        ).build()
        if size.pretrained:
            return cls._pretrained(size, training)
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(1, size.vocabulary, (size.batch, size.length), generator=generator)
        labels = (tokens < size.vocabulary // 2).float().mean(1).gt(0.5).long()
        batch = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": labels}
        _train(model, [batch], training, 3e-4)
        return cls(size, model.eval(), batch, _blocks(model))

    @classmethod
    def _pretrained(cls, size: Size, training: int) -> Setup:
        """Real weights, fine-tuned on real reviews; the batch of the measurements is not among those."""
        from transformers import AutoTokenizer

        model = Distilbert(pretrained=True).build()
        reviews = MovieReviews(source="imdb", max_length=size.length, batch_size=size.batch)
        train, held_out = reviews.read()
        stream = list(islice(reviews.batches(train, AutoTokenizer.from_pretrained(weights_folder())), training))
        _train(model, stream, training, 5e-5)
        batch = next(reviews.batches(held_out, AutoTokenizer.from_pretrained(weights_folder())))
        return cls(size, model.eval(), batch, _blocks(model))

    def head_blocks(self) -> tuple[Block, ...]:
        """Query, key and value weights cut by head."""
        wide = self.size.width // self.size.heads
        return tuple(
            Block(f"{block.name}.{head}", Role.QUERY, (
                ParameterSlice(part.parameter, part.shape, 0, ((head * wide, (head + 1) * wide),)),
            ))
            for block in self.blocks if block.name[-1] in "QKV"
            for part in block.slices for head in range(self.size.heads)
        )

    @property
    def parameters(self) -> list[Tensor]:
        """Of the blocks."""
        named = dict(self.model.named_parameters())
        return [named[block.slices[0].parameter] for block in self.blocks]

    def gradient(self) -> tuple[Tensor, ...]:
        """One plain gradient with respect to the blocks, as a user would take it."""
        return torch.autograd.grad(loss(self.model, self.batch), self.parameters)


def _train(model: nn.Module, batches: Sequence[dict[str, Tensor]], steps: int, rate: float) -> None:
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    model.train()
    for step in range(steps):
        optimizer.zero_grad(set_to_none=True)
        loss(model, batches[step % len(batches)]).backward()
        optimizer.step()
    model.zero_grad(set_to_none=True)


def _blocks(model: nn.Module) -> tuple[Block, ...]:
    """The weights of projections and feed-forward layers."""
    named = dict(model.named_parameters())
    wanted = [name for name in named if ".layer." in name and name.endswith("weight") and "norm" not in name]
    return tuple(Block(short(name), Role.ENCODER, (whole(name, named[name]),)) for name in wanted)


def loss(model: nn.Module, batch: Any) -> Tensor:
    """Hugging Face's own."""
    return model(**batch).loss


def whole(name: str, parameter: Tensor) -> ParameterSlice:
    return ParameterSlice(name, tuple(parameter.shape))


LETTERS = {"q_lin": "Q", "k_lin": "K", "v_lin": "V", "out_lin": "O", "lin1": "F1", "lin2": "F2"}


def short(name: str) -> str:
    """`L3.Q`."""
    parts = name.split(".")
    return f"L{parts[parts.index('layer') + 1]}.{LETTERS[parts[-2]]}"


@dataclass(frozen=True)
class Seconds:
    """Processor seconds and seconds on the wall."""

    processor: float
    wall: float


def timed(run: Callable[[], object]) -> Seconds:
    """One run."""
    processor, wall = time.process_time(), time.perf_counter()
    run()
    return Seconds(time.process_time() - processor, time.perf_counter() - wall)


def interleaved(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, Seconds]:
    """Medians; the runs take turns, so that a busy minute hits all alike."""
    found: dict[str, list[Seconds]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            found[name].append(timed(run))
    return {name: _median(seconds) for name, seconds in found.items()}


def _median(seconds: Sequence[Seconds]) -> Seconds:
    return Seconds(statistics.median(s.processor for s in seconds), statistics.median(s.wall for s in seconds))


def mebibytes(line: str) -> float:
    """What this process has now (`VmRSS`) or has had at most (`VmHWM`), on Linux."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(float(text.split()[1]) / 1024 for text in status.splitlines() if text.startswith(line))


def forget_peak() -> None:
    """Makes `VmHWM` start again from now."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
