"""Layers that mix frames, and the only file of the network that reads `is_video`.

Packed images (is_video False) pass a temporal convolution untouched and attend to their own frame
alone (paper section 7). Nothing here is causal.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from imagen_video.shapes import Bool, Float, Int
from imagen_video.unet.attention import attend
from imagen_video.unet.embed import sinusoidal
from imagen_video.unet.spatial import make_norm, swish, zero

# Relative distances beyond this many frames share one bias.
MAX_DISTANCE = 32


class FramePosition(nn.Module):
    """Where in the clip a frame is, as a vector; zero for packed images, which have no order."""

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim
        self.inner = nn.Linear(dim, dim)
        self.outer = nn.Linear(dim, dim)

    def forward(
        self, index: Int[Tensor, " f"], is_video: Bool[Tensor, " b"]
    ) -> Float[Tensor, "b f d"]:
        # Spread over the slow sine waves too: neighbouring frames must differ at full strength.
        wave = sinusoidal(index.float() * 16, self.dim).to(self.inner.weight.dtype)
        place = self.outer(F.silu(self.inner(wave)))
        return place * is_video[:, None, None]


class PlaceAndTime(nn.Module):
    """Where in the frame a pixel is and when in the clip, and the products of both, as features.

    "Rising" says low early and high late: an interaction of caption, time and place of which any
    two tell nothing, and which a network with each of them apart found only after thousands of
    clips. Time is half a wave over `FRAMES`, stands still in longer videos from there on, and is 0
    in packed images, which have no order.
    """

    PERIODS, FRAMES = (0.5, 1, 2), 16

    def __init__(self, width: int):
        super().__init__()
        self.out = nn.Conv2d(2 * 4 * len(self.PERIODS), width, 1)

    def forward(
        self,
        size: tuple[int, int],
        index: Int[Tensor, " f"],
        is_video: Bool[Tensor, " b"],
    ) -> Float[Tensor, "bf c h w"]:
        weight = self.out.weight
        sides = [(torch.arange(n, device=weight.device) + 0.5) / n - 0.5 for n in size]
        grid = torch.stack(torch.meshgrid(*sides, indexing="ij"))
        angles = torch.cat([grid * (2 * math.pi * periods) for periods in self.PERIODS])
        place = torch.cat([angles.sin(), angles.cos()])
        time = torch.cos(index.clamp(max=self.FRAMES) * (math.pi / self.FRAMES)) * is_video[:, None]
        moved = time[:, :, None, None, None] * place
        both = torch.cat([place.expand_as(moved), moved], 2).flatten(0, 1)
        return self.out(both.to(weight.dtype, memory_format=torch.channels_last))


class TemporalAttention(nn.Module):
    """Each pixel attends to itself in all frames, with a learned bias per relative distance."""

    def __init__(self, width: int, *, head_dim: int, norm: str):
        super().__init__()
        self.heads = width // head_dim
        self.norm = make_norm(norm, width)
        self.qkv = nn.Linear(width, 3 * width)
        self.distance = nn.Parameter(torch.zeros(self.heads, 2 * MAX_DISTANCE + 1))
        self.out = zero(nn.Linear(width, width))

    def forward(
        self, x: Float[Tensor, "bf c h w"], is_video: Bool[Tensor, " b"], index: Int[Tensor, " f"]
    ) -> Float[Tensor, "bf c h w"]:
        clips, height = is_video.shape[0], x.shape[2]
        tokens = self.qkv(rearrange(self.norm(x), "bf c h w -> bf (h w) c"))
        q, k, v = rearrange(
            tokens, "(b f) n (three k d) -> three (b n) k f d", b=clips, three=3, k=self.heads
        )
        own_frame = torch.eye(q.shape[2], dtype=torch.bool, device=x.device)
        seen = is_video[:, None, None] | own_frame
        seen = seen.repeat_interleave(tokens.shape[1], 0)[:, None]
        h = attend(q, k, v, mask=seen, bias=self._bias(index))
        h = rearrange(h, "(b n) k f d -> (b f) n (k d)", b=clips)
        return x + rearrange(self.out(h), "bf (h w) c -> bf c h w", h=height)

    def _bias(self, index: Int[Tensor, " f"]) -> Float[Tensor, "1 k f f"]:
        distance = (index[None] - index[:, None]).clamp(-MAX_DISTANCE, MAX_DISTANCE)
        return self.distance[:, distance + MAX_DISTANCE][None]


class TemporalConv(nn.Module):
    """norm, swish, (3, 1) convolution over frames, added to what came in.

    The frames of channels-last features are a (3, 1) convolution over the free view
    `b c f (h w)`: no copy either way.
    """

    def __init__(self, width: int, *, norm: str):
        super().__init__()
        self.norm = make_norm(norm, width)
        self.conv = zero(nn.Conv2d(width, width, (3, 1), padding=(1, 0)))

    def forward(
        self, x: Float[Tensor, "bf c h w"], is_video: Bool[Tensor, " b"], index: Int[Tensor, " f"]
    ) -> Float[Tensor, "bf c h w"]:
        clips, height = is_video.shape[0], x.shape[2]
        h = swish(self.norm(x))
        h = rearrange(h, "(b f) c h w -> b c f (h w)", b=clips)
        h = self.conv(h) * is_video[:, None, None, None]
        return x + rearrange(h, "b c f (h w) -> (b f) c h w", h=height)


def make_temporal(kind: str, width: int, *, head_dim: int, norm: str) -> nn.Module:
    """Temporal attention for the base, temporal convolution for super-resolution."""
    if kind == "attention":
        return TemporalAttention(width, head_dim=head_dim, norm=norm)
    return TemporalConv(width, norm=norm)
