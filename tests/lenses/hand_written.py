"""One attention written out by hand, with its anatomy written by hand and every tensor on show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attnscope.anatomy.blocks import Anatomy, Attention, Block, Form, Kind, ParameterSlice, Role
from attnscope.anatomy.observe import AttentionTensors, Observation
from attnscope.probe import Probe

Change = Callable[[Tensor], Tensor]


def same(tensor: Tensor) -> Tensor:
    return tensor


@dataclass
class Plan:
    """What the attention looks like, and what is done to it."""

    d_model: int = 12
    n_heads: int = 4
    n_key_heads: int = 4
    bias: bool = True
    rotary: str = ""  # "", "half" or "interleaved"
    normalised: bool = False
    causal: bool = True
    fused: bool = False  # the kernel instead of the products
    scale: float = 0.5
    on_query: Change = same
    on_key: Change = same
    on_value: Change = same
    on_context: Change = same


class HandWritten(nn.Module):
    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        width = plan.d_model // plan.n_heads
        self.embedding = nn.Embedding(13, plan.d_model)
        self.query = nn.Linear(plan.d_model, plan.n_heads * width, bias=plan.bias)
        self.key = nn.Linear(plan.d_model, plan.n_key_heads * width, bias=plan.bias)
        self.value = nn.Linear(plan.d_model, plan.n_key_heads * width, bias=plan.bias)
        self.output = nn.Linear(plan.n_heads * width, plan.d_model, bias=plan.bias)
        self.classifier = nn.Linear(plan.d_model, 13)
        self.seen: dict[str, Tensor] = {}

    def forward(self, tokens: Tensor) -> Tensor:
        plan = self.plan
        hidden = self.embedding(tokens)
        query = self.split(self.query(hidden), plan.n_heads)
        key = self.split(self.key(hidden), plan.n_key_heads)
        value = plan.on_value(self.split(self.value(hidden), plan.n_key_heads))
        query, key = plan.on_query(query), plan.on_key(key)
        if plan.normalised:
            query, key = nn.functional.normalize(query, dim=-1), nn.functional.normalize(key, dim=-1)
        if plan.rotary:
            query, key = turned(query, plan.rotary), turned(key, plan.rotary)
        shared = plan.n_heads // plan.n_key_heads
        key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
        length = tokens.shape[1]
        allowed = torch.ones(length, length, dtype=torch.bool)
        allowed = allowed.tril() if plan.causal else allowed
        scores = plan.scale * query @ key.transpose(-1, -2)
        scores = scores.masked_fill(~allowed, float("-inf"))
        pattern = scores.softmax(-1)
        context = pattern @ value
        if plan.fused:
            context = nn.functional.scaled_dot_product_attention(
                query, key, value, is_causal=plan.causal, scale=plan.scale
            )
        changed = plan.on_context(context)
        result = self.output(changed.transpose(1, 2).flatten(2))
        self.seen = {
            "query": query,
            "key": key,
            "value": value,
            "scores": scores,
            "pattern": pattern,
            "context": context,
            "hidden": hidden,
            "output": result,
        }
        return self.classifier(hidden + result)

    @staticmethod
    def split(projected: Tensor, n_heads: int) -> Tensor:
        return projected.unflatten(-1, (n_heads, -1)).transpose(1, 2)


def turned(heads: Tensor, convention: str) -> Tensor:
    """Rotary positions, pairing (i, i + d/2) or (2i, 2i + 1)."""
    length, width = heads.shape[-2:]
    angle = torch.arange(length, dtype=heads.dtype)[:, None] / 10 ** torch.arange(width // 2, dtype=heads.dtype)
    cos, sin = angle.cos(), angle.sin()
    if convention == "half":
        first, second = heads[..., : width // 2], heads[..., width // 2 :]
        return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
    first, second = heads[..., 0::2], heads[..., 1::2]
    return torch.stack([first * cos - second * sin, second * cos + first * sin], -1).flatten(-2)


def anatomy_of(model: HandWritten) -> Anatomy:
    plan = model.plan
    names_of = {id(value): name for name, value in reversed(list(model.named_parameters()))}
    every = dict(model.named_parameters(remove_duplicate=False))
    first_name = {name: names_of[id(value)] for name, value in every.items()}
    shapes = {name: tuple(value.shape) for name, value in every.items()}
    names = {"query": "L0.Q", "key": "L0.K", "value": "L0.V", "output": "L0.O"}
    width = plan.d_model // plan.n_heads

    def head_slices(role: str) -> tuple[tuple[ParameterSlice, ...], ...]:
        count = plan.n_heads if role in ("query", "output") else plan.n_key_heads
        heads = []
        for head in range(count):
            cut = ((head * width, (head + 1) * width),)
            pieces = [
                ParameterSlice(first_name[f"{role}.weight"], shapes[f"{role}.weight"], int(role == "output"), cut)
            ]
            if plan.bias and role != "output":
                pieces.append(ParameterSlice(first_name[f"{role}.bias"], shapes[f"{role}.bias"], 0, cut))
            heads.append(tuple(pieces))
        return tuple(heads)

    def block(name: str, role: Role, layer: int | None, *parameters: str) -> Block:
        pieces = tuple(ParameterSlice(item, shapes[item]) for item in parameters if item in shapes)
        return Block(name, role, pieces, layer)

    attention = Attention(
        layer=0,
        module="",
        module_class="HandWritten",
        form=Form.DOT_PRODUCT,
        kind=Kind.SELF,
        n_heads=plan.n_heads,
        n_key_heads=plan.n_key_heads,
        d_head=width,
        d_value=width,
        blocks=names,
        head_slices={role: head_slices(role) for role in names},
        scale=plan.scale,
        positions=("rotary",) if plan.rotary else (),
        n_queries=7,
        n_keys=7,
        batch_size=3,
    )
    blocks = [block(name, Role(role), 0, f"{role}.weight", f"{role}.bias") for role, name in names.items()]
    blocks.append(block("embedding", Role.EMBEDDING, None, "embedding.weight"))
    blocks.append(block("classifier", Role.CLASSIFIER, None, "classifier.weight", "classifier.bias"))
    return Anatomy("HandWritten", (attention,), tuple(blocks))


def observed(model: HandWritten, output: Any) -> Observation:
    seen = {name: value.detach() for name, value in model.seen.items()}
    tensors = AttentionTensors(
        layer=0,
        query=seen["query"],
        key=seen["key"],
        value=seen["value"],
        raw_scores=seen["query"] @ seen["key"].transpose(-1, -2),
        scores=seen["scores"],
        pattern=seen["pattern"],
        softmax_output=seen["pattern"],
        allowed=None,
        context=seen["context"],
        hidden=seen["hidden"],
        output=seen["output"],
    )
    return Observation((tensors,), output)


class HandProbe(Probe):
    """A probe whose observation is what the model itself put on show."""

    def observation_of(self, batch: Any) -> Observation:
        with self.evaluating() as model, torch.no_grad():
            output = self.forward(model, batch)
            return observed(model, output)


def probe_of(
    plan: Plan | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    model: HandWritten | None = None,
    batch: Any = None,
    **more: Any,
) -> HandProbe:
    """A probe on a fresh model of that plan, with a language-model batch."""
    torch.manual_seed(seed)
    model = HandWritten(plan or Plan()) if model is None else model
    model.to(dtype)
    if batch is None:
        tokens = torch.randint(1, 13, (3, 8))
        batch = (tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
    probe = HandProbe(model=model, batches=(batch,), anatomy=anatomy_of(model), **more)
    probe.__dict__["observation"] = probe.observation_of(batch)
    return probe
