"""An image classifier in the manner of ViT: patches, a class token, learned positions, a fused projection."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head self-attention with one linear map for query, key and value."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.scale = (d_model // n_heads) ** -0.5
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.output = nn.Linear(d_model, d_model)

    def forward(self, hidden: Tensor) -> Tensor:
        """The attended hidden state."""
        batch, length, d_model = hidden.shape
        heads = self.qkv(hidden).reshape(batch, length, 3, self.n_heads, -1)
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
        query = query * self.scale
        scores = query @ key.transpose(-2, -1)
        pattern = scores.softmax(dim=-1)
        context = pattern @ value
        context = context.transpose(1, 2)
        merged = context.reshape(batch, length, d_model)
        output: Tensor = self.output(merged)
        return output


class Block(nn.Module):
    """Attention, then a two-layer network, each on the normalised residual stream."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(d_model)
        self.attention = Attention(d_model, n_heads)
        self.norm_mlp = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 2 * d_model), nn.GELU(), nn.Linear(2 * d_model, d_model))

    def forward(self, hidden: Tensor) -> Tensor:
        """The residual stream after this block."""
        hidden = hidden + self.attention(self.norm_attention(hidden))
        hidden = hidden + self.mlp(self.norm_mlp(hidden))
        return hidden


class Vit(nn.Module):
    """Images `[batch, 1, height, width]` in, logits of the classes out, read from the class token.

    Args:
        n_classes: classes.
        side: height and width of an image.
        patch: height and width of a patch; divides `side`.
        d_model: width of the residual stream.
        n_heads: heads per attention.
        n_layers: blocks.
    """

    def __init__(
        self, *, n_classes: int = 8, side: int = 12, patch: int = 3, d_model: int = 32, n_heads: int = 4,
        n_layers: int = 2,
    ) -> None:
        super().__init__()
        n_patches = (side // patch) ** 2
        self.patches = nn.Conv2d(1, d_model, kernel_size=patch, stride=patch)
        self.class_token = nn.Parameter(0.02 * torch.randn(1, 1, d_model))
        self.positions = nn.Parameter(0.02 * torch.randn(1, n_patches + 1, d_model))
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.norm = nn.LayerNorm(d_model)
        self.classifier = nn.Linear(d_model, n_classes)

    def forward(self, image: Tensor) -> Tensor:
        """Logits `[batch, class]`."""
        patches = self.patches(image).flatten(2).transpose(1, 2)
        first = self.class_token.expand(image.shape[0], -1, -1)
        hidden = torch.cat([first, patches], dim=1)
        hidden = hidden + self.positions
        for block in self.blocks:
            hidden = block(hidden)
        hidden = self.norm(hidden)
        logits: Tensor = self.classifier(hidden[:, 0])
        return logits
