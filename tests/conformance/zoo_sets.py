"""Learned queries (set transformer, perceiver), cross-attention by convolutions, and no attention at all."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .zoo_scores import seen


class Mab(nn.Module):
    """Multi-head attention block of the set transformer: heads are stacked in the batch, heads first."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads, self.d_head = n_heads, d_model // n_heads
        self.fc_q = nn.Linear(d_model, d_model)
        self.fc_k = nn.Linear(d_model, d_model)
        self.fc_v = nn.Linear(d_model, d_model)
        self.norm = nn.LayerNorm(d_model)
        self.fc_o = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, y: Tensor, keep: list | None = None) -> Tensor:
        q, k, v = self.fc_q(x), self.fc_k(y), self.fc_v(y)
        stacked_q = torch.cat(q.split(self.d_head, 2), 0)
        stacked_k = torch.cat(k.split(self.d_head, 2), 0)
        stacked_v = torch.cat(v.split(self.d_head, 2), 0)
        scores = stacked_q.bmm(stacked_k.transpose(1, 2)) / q.shape[-1] ** 0.5  # <- scores scale
        pattern = torch.softmax(scores, 2)  # <- softmax
        if keep is not None:
            b = y.shape[0]
            split = (
                each.view(self.n_heads, b, *each.shape[1:]).transpose(0, 1) for each in (scores, pattern)
            )
            seen(keep, *split)
        mixed = stacked_q + pattern.bmm(stacked_v)  # <- value
        joined = self.norm(torch.cat(mixed.split(y.shape[0], 0), 2))
        return joined + F.relu(self.fc_o(joined))


class SetTransformer(nn.Module):
    """One induced set attention block, then pooling by a learned seed."""

    def __init__(self, d_model: int = 24, n_heads: int = 3, n_inducing: int = 5) -> None:
        super().__init__()
        self.embed = nn.Linear(10, d_model)
        self.inducing = nn.Parameter(torch.randn(1, n_inducing, d_model))
        self.mab_0, self.mab_1 = Mab(d_model, n_heads), Mab(d_model, n_heads)
        self.seed = nn.Parameter(torch.randn(1, 2, d_model))
        self.pool = Mab(d_model, n_heads)
        self.out = nn.Linear(d_model, 4)

    def forward(self, x: Tensor, keep: list | None = None) -> Tensor:
        x = self.embed(x)
        induced = self.mab_0(self.inducing.repeat(x.shape[0], 1, 1), x, keep=keep)
        x = self.mab_1(x, induced, keep=keep)
        return self.out(self.pool(self.seed.repeat(x.shape[0], 1, 1), x, keep=keep))


class LatentAttention(nn.Module):
    """Pre-norm attention with a fused key-value projection, from latents to an input or to themselves."""

    def __init__(self, d_latent: int, d_input: int, n_heads: int, d_head: int) -> None:
        super().__init__()
        self.n_heads, self.d_head = n_heads, d_head
        self.norm = nn.LayerNorm(d_latent)
        self.norm_input = nn.LayerNorm(d_input)
        self.to_q = nn.Linear(d_latent, n_heads * d_head, bias=False)
        self.to_kv = nn.Linear(d_input, 2 * n_heads * d_head, bias=False)
        self.to_out = nn.Linear(n_heads * d_head, d_latent)

    def forward(self, latents: Tensor, inputs: Tensor | None = None, keep: list | None = None) -> Tensor:
        x = self.norm(latents)
        context = x if inputs is None else self.norm_input(inputs)
        q = self.to_q(x)
        k, v = self.to_kv(context).chunk(2, dim=-1)
        q, k, v = (each.unflatten(-1, (self.n_heads, self.d_head)).transpose(1, 2) for each in (q, k, v))
        scores = torch.einsum("bhid,bhjd->bhij", q, k) * self.d_head**-0.5  # <- scores scale
        pattern = scores.softmax(dim=-1)  # <- softmax
        seen(keep, scores, pattern)
        mixed = torch.einsum("bhij,bhjd->bhid", pattern, v)  # <- value
        return latents + self.to_out(mixed.transpose(1, 2).flatten(2))  # <- residual


class Perceiver(nn.Module):
    """Learned latents read the input, then attend to one another."""

    def __init__(self, d_latent: int = 20, d_input: int = 14, n_latents: int = 5) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(n_latents, d_latent) * 0.3)
        self.read = LatentAttention(d_latent, d_input, 2, 7)
        self.think = LatentAttention(d_latent, d_latent, 4, 6)
        self.mlp = nn.Sequential(
            nn.LayerNorm(d_latent), nn.Linear(d_latent, 30), nn.GELU(), nn.Linear(30, d_latent)
        )
        self.out = nn.Linear(d_latent, 3)

    def forward(self, x: Tensor, keep: list | None = None) -> Tensor:
        latents = self.latents.unsqueeze(0).expand(x.shape[0], -1, -1)
        latents = self.read(latents, x, keep=keep)
        latents = self.think(latents, keep=keep)
        return self.out((latents + self.mlp(latents)).mean(1))


class DirectQueries(nn.Module):
    """A parameter is the queries: no query projection."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(3, 16))
        self.key = nn.Linear(16, 16)
        self.value = nn.Linear(16, 10)
        self.out = nn.Linear(30, 2)

    def forward(self, x: Tensor, keep: list | None = None) -> Tensor:
        scores = self.queries @ self.key(x).transpose(1, 2) / 4.0  # <- scores scale
        pattern = scores.softmax(-1)  # <- softmax
        seen(keep, scores[:, None], pattern[:, None])
        return self.out((pattern @ self.value(x)).flatten(1))  # <- value


class VolumeCrossAttention(nn.Module):
    """A 3D convolutional network whose first stream attends to its second through 1x1x1 convolutions."""

    def __init__(self, channels: int = 12, d_key: int = 6, n_heads: int = 1) -> None:
        super().__init__()
        self.stem_a = nn.Sequential(nn.Conv3d(1, channels, 3, padding=1), nn.BatchNorm3d(channels), nn.ReLU())
        self.stem_b = nn.Sequential(nn.Conv3d(1, channels, 3, stride=2, padding=1), nn.ReLU())
        self.query = nn.Conv3d(channels, d_key, 1)
        self.key = nn.Conv3d(channels, d_key, 1)
        self.value = nn.Conv3d(channels, channels, 1)
        self.project = nn.Conv3d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.ones(1) * 0.5)
        self.classify = nn.Linear(channels, 2)

    def forward(self, first: Tensor, second: Tensor, keep: list | None = None) -> Tensor:
        a, b = self.stem_a(first), self.stem_b(second)
        n, c, *volume = a.shape
        q = self.query(a).flatten(2).transpose(1, 2)
        k = self.key(b).flatten(2)
        v = self.value(b).flatten(2)
        scores = torch.bmm(q, k) * k.shape[1] ** -0.5  # <- scores scale
        pattern = torch.softmax(scores, dim=-1)  # <- softmax
        seen(keep, scores[:, None], pattern[:, None])
        mixed = torch.bmm(v, pattern.transpose(1, 2)).view(n, c, *volume)  # <- value
        a = a + self.gamma * self.project(mixed)  # <- residual
        return self.classify(F.adaptive_avg_pool3d(a, 1).flatten(1))


class VolumeHeads(nn.Module):
    """Self-attention over the voxels of a volume with heads split from the channels."""

    def __init__(self, channels: int = 12, n_heads: int = 3) -> None:
        super().__init__()
        self.n_heads, self.d_head = n_heads, channels // n_heads
        self.qkv = nn.Conv3d(channels, 3 * channels, 1, bias=False)
        self.project = nn.Conv3d(channels, channels, 1)

    def forward(self, x: Tensor, keep: list | None = None) -> Tensor:
        b, c, *volume = x.shape
        q, k, v = self.qkv(x).view(b, 3, self.n_heads, self.d_head, -1).unbind(1)
        scores = torch.einsum("bhdq,bhdk->bhqk", q, k) * self.d_head**-0.5  # <- scores scale
        pattern = scores.softmax(dim=-1)  # <- softmax
        seen(keep, scores, pattern)
        mixed = torch.einsum("bhqk,bhdk->bhdq", pattern, v)  # <- value
        return self.project(mixed.reshape(b, c, *volume))


class StateSpace(nn.Module):
    """A selective state space block: gates and a scan, but no attention."""

    def __init__(self, d_model: int = 16, d_state: int = 5) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, d_model)
        self.in_proj = nn.Linear(d_model, 2 * d_model)
        self.conv = nn.Conv1d(d_model, d_model, 3, padding=2, groups=d_model)
        self.select = nn.Linear(d_model, 2 * d_state + 1)
        self.dt = nn.Linear(1, d_model)
        self.A_log = nn.Parameter(torch.log(torch.arange(1.0, d_state + 1)).repeat(d_model, 1))
        self.D = nn.Parameter(torch.ones(d_model))
        self.norm = nn.LayerNorm(d_model)
        self.out = nn.Linear(d_model, 30)
        self.d_state = d_state

    def forward(self, tokens: Tensor) -> Tensor:
        x, gate = self.in_proj(self.norm(self.embed(tokens))).chunk(2, -1)
        x = F.silu(self.conv(x.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2))
        dt, b, c = self.select(x).split([1, self.d_state, self.d_state], -1)
        dt = F.softplus(self.dt(dt))
        decay = torch.exp(dt.unsqueeze(-1) * -torch.exp(self.A_log))
        drive = dt.unsqueeze(-1) * b.unsqueeze(2) * x.unsqueeze(-1)
        state, outputs = torch.zeros_like(drive[:, 0]), []
        for step in range(x.shape[1]):
            state = decay[:, step] * state + drive[:, step]
            outputs.append((state @ c[:, step].unsqueeze(-1)).squeeze(-1))
        return self.out((torch.stack(outputs, 1) + self.D * x) * F.silu(gate))


class PlainCnn(nn.Module):
    """Convolutions, squeeze-and-excitation, and class probabilities by softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.squeeze, self.excite = nn.Linear(8, 4), nn.Linear(4, 8)
        self.classify = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x)))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))
        x = x * gate[:, :, None, None]
        return torch.softmax(self.classify(x.mean((2, 3))), dim=-1)


class Experts(nn.Module):
    """A router mixes experts by softmax gates: gates are no attention, no position looks at another."""

    def __init__(self, n_experts: int = 4, d_model: int = 12) -> None:
        super().__init__()
        self.router = nn.Linear(d_model, n_experts)
        self.experts = nn.ModuleList(
            [
                nn.Sequential(nn.Linear(d_model, 20), nn.ReLU(), nn.Linear(20, d_model))
                for _ in range(n_experts)
            ]
        )
        self.out = nn.Linear(d_model, 3)

    def forward(self, x: Tensor) -> Tensor:
        gates = self.router(x).softmax(-1)
        mixed = torch.stack([expert(x) for expert in self.experts], dim=-2)
        return self.out((gates.unsqueeze(-1) * mixed).sum(-2))
