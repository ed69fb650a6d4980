"""A video classifier: two 3D-convolution streams, frames and frame differences, joined by cross-attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Stream(nn.Module):
    """Two 3D convolutions with batch normalisation; time keeps its length, space is halved twice."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(1, d_model // 2, kernel_size=3, padding=1, stride=(1, 2, 2))
        self.norm1 = nn.BatchNorm3d(d_model // 2)
        self.conv2 = nn.Conv3d(d_model // 2, d_model, kernel_size=3, padding=1, stride=(1, 2, 2))
        self.norm2 = nn.BatchNorm3d(d_model)

    def forward(self, video: Tensor) -> Tensor:
        """`[batch, d_model, frame, height, width]` features."""
        features = torch.relu(self.norm1(self.conv1(video)))
        features = torch.relu(self.norm2(self.conv2(features)))
        return features


class CrossAttention(nn.Module):
    """Each place of one stream looks at all places of the other; projections are 1x1x1 convolutions."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.d_head = d_model // n_heads
        self.query = nn.Conv3d(d_model, d_model, kernel_size=1)
        self.key = nn.Conv3d(d_model, d_model, kernel_size=1)
        self.value = nn.Conv3d(d_model, d_model, kernel_size=1)
        self.output = nn.Conv3d(d_model, d_model, kernel_size=1)

    def split(self, features: Tensor) -> Tensor:
        """`[batch, d_model, frame, height, width]` to `[batch, head, place, d_head]`."""
        heads = features.flatten(2).view(features.shape[0], self.n_heads, self.d_head, -1)
        return heads.transpose(2, 3)

    def forward(self, asking: Tensor, asked: Tensor) -> Tensor:
        """Features of the asking stream's shape."""
        query = self.split(self.query(asking))
        key = self.split(self.key(asked))
        value = self.split(self.value(asked))
        scores = torch.einsum("bhqe,bhke->bhqk", query, key)
        scores = scores / math.sqrt(self.d_head)
        pattern = torch.softmax(scores, dim=-1)
        context = torch.einsum("bhqk,bhke->bhqe", pattern, value)
        context = context.transpose(2, 3)
        merged = context.reshape(asking.shape)
        output: Tensor = self.output(merged)
        return output


class Conv3dAttention(nn.Module):
    """Videos `[batch, 1, frame, height, width]` in, logits of the classes out.

    Args:
        n_classes: classes.
        n_frames: frames of a video.
        d_model: channels of both streams.
        n_heads: heads of the cross-attention.
    """

    def __init__(self, *, n_classes: int = 8, n_frames: int = 5, d_model: int = 16, n_heads: int = 2) -> None:
        super().__init__()
        self.frames = Stream(d_model)
        self.motion = Stream(d_model)
        self.times = nn.Parameter(0.1 * torch.randn(d_model, n_frames, 1, 1))
        self.attention = CrossAttention(d_model, n_heads)
        self.norm = nn.GroupNorm(1, d_model)
        self.classifier = nn.Linear(d_model, n_classes)

    def forward(self, video: Tensor) -> Tensor:
        """Logits `[batch, class]`."""
        difference = torch.diff(video, dim=2, prepend=video[:, :, :1])
        frames = self.frames(video) + self.times
        motion = self.motion(difference) + self.times
        attended = self.attention(frames, motion)
        features = frames + attended
        features = self.norm(features)
        pooled = features.mean(dim=(2, 3, 4))
        logits: Tensor = self.classifier(pooled)
        return logits
