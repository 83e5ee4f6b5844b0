"""Noise levels, pooled text and positions as vectors (paper sections 2.4 and 3.2)."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from imagen_video.shapes import Bool, Float
from imagen_video.unet.attention import attend
from imagen_video.video import PerClip


def sinusoidal(position: Float[Tensor, "..."], dim: int) -> Float[Tensor, "... dim"]:
    """Sines and cosines of `position` at `dim` / 2 geometric frequencies from 1 to 1/10000."""
    half = dim // 2
    steps = torch.arange(half, device=position.device, dtype=torch.float32)
    angle = position.float()[..., None] * torch.exp(steps * (-math.log(10_000.0) / half))
    return torch.cat([angle.sin(), angle.cos()], -1)


def level_input(logsnr: PerClip) -> PerClip:
    """A log-SNR as a number in (0, 1): the 'inv_cos' input of paper section 2.4."""
    return torch.atan(torch.exp(-0.5 * logsnr.float().clamp(-20, 20))) / (math.pi / 2)


class NumberEmbedding(nn.Module):
    """A number a clip as a vector; numbers that differ by one are told apart well.

    `waves` are the features in between, as many as `dim` unless given.
    """

    def __init__(self, dim: int, waves: int | None = None):
        super().__init__()
        self.waves = waves or dim
        self.inner = nn.Linear(self.waves, self.waves)
        self.outer = nn.Linear(self.waves, dim)

    def forward(self, number: PerClip) -> Float[Tensor, "b dim"]:
        wave = sinusoidal(number, self.waves)
        return self.outer(F.silu(self.inner(wave.to(self.inner.weight.dtype))))


class LevelEmbedding(NumberEmbedding):
    """A noise level as a vector."""

    def forward(self, logsnr: PerClip) -> Float[Tensor, "b dim"]:
        return super().forward(1000 * level_input(logsnr))


class TextIn(nn.Linear):
    """Token embeddings as they come, or made equally strong in every direction by `fit`.

    A sentence encoder says "left to right" and "right to left" with nearly the same vectors; how
    fast a network learns to tell them apart goes with how far apart they are.
    """

    def __init__(self, dim: int):
        super().__init__(dim, dim)
        nn.init.eye_(self.weight)
        nn.init.zeros_(self.bias)

    @torch.no_grad()
    def fit(self, tokens: Float[Tensor, "n dim"]) -> None:
        """Whiten these tokens; what varies by less than a hundredth of the mean stays small."""
        mean = tokens.double().mean(0)
        spread = (tokens - mean).double()
        variance, axes = torch.linalg.eigh(spread.T @ spread / len(tokens))
        scale = (variance.clamp(min=0) + 0.01 * variance.mean()).rsqrt()
        whiten = (axes * scale) @ axes.T
        self.weight.copy_(whiten)
        self.bias.copy_(-whiten @ mean)


class TextPool(nn.Module):
    """One learned query over the tokens of each caption and a learned null token."""

    def __init__(self, text_dim: int, dim: int, head_dim: int):
        super().__init__()
        self.heads = max(1, dim // head_dim)
        self.norm = nn.LayerNorm(text_dim)
        self.keys = nn.Linear(text_dim, 2 * dim)
        self.query = nn.Parameter(torch.randn(dim))
        self.null = nn.Parameter(torch.randn(2 * dim) * 0.02)
        self.out = nn.Linear(dim, dim)

    def forward(
        self, text: Float[Tensor, "t n c"], mask: Bool[Tensor, "t n"]
    ) -> Float[Tensor, "t dim"]:
        captions = text.shape[0]
        both = torch.cat([self.null.expand(captions, 1, -1), self.keys(self.norm(text))], dim=1)
        k, v = rearrange(both, "t n (two k d) -> two t k n d", two=2, k=self.heads)
        q = rearrange(self.query, "(k d) -> k 1 d", k=self.heads).expand(captions, -1, -1, -1)
        seen = F.pad(mask, (1, 0), value=True)[:, None, None]
        return self.out(rearrange(attend(q, k, v, mask=seen), "t k 1 d -> t (k d)"))
