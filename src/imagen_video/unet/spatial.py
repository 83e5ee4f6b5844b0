"""Layers that never see frames: every one takes a batch of images, channels-last in memory."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from imagen_video.shapes import Bool, Float
from imagen_video.unet.attention import attend


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each pixel: blind to the size of the image."""

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class GroupNorm(nn.GroupNorm):
    """torch's, in float32 where its bfloat16 kernel is slow: three to seven times, on CPUs, for
    images of fewer pixels than `SLOW` in channels-last memory (docs/log.md)."""

    SLOW = 1024

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        pixels = input.shape[-2] * input.shape[-1]
        slow = input.device.type == "cpu" and input.dtype == torch.bfloat16 and pixels < self.SLOW
        if not slow:
            return super().forward(input)
        own = (self.weight.float(), self.bias.float()) if self.affine else (None, None)
        normed = F.group_norm(input.float(), self.num_groups, *own, self.eps)
        return normed.to(input.dtype)


def make_norm(kind: str, width: int, *, affine: bool = True) -> nn.Module:
    """Group norm with 8 to 32 groups, or `ChannelNorm`."""
    if kind == "layer":
        return ChannelNorm(width, elementwise_affine=affine)
    groups = next(g for g in (32, 16, 8) if width % g == 0 and (width // g >= 8 or g == 8))
    return GroupNorm(groups, width, affine=affine)


def swish(fresh: Tensor) -> Tensor:
    """Swish of a tensor that nobody else reads, in its own memory where no gradient needs it."""
    return F.silu(fresh, inplace=not torch.is_grad_enabled())


def zero(module: nn.Module) -> nn.Module:
    """Start as nothing, so that a residual branch starts as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class ResBlock(nn.Module):
    """norm, swish, conv, norm, scale-shift, swish, conv, with a shortcut (paper section 2.3)."""

    def __init__(self, inside: int, width: int, *, embed_dim: int, norm: str):
        super().__init__()
        self.norm1 = make_norm(norm, inside)
        self.conv1 = nn.Conv2d(inside, width, 3, padding=1)
        self.film = nn.Linear(embed_dim, 2 * width)
        self.norm2 = make_norm(norm, width)
        self.conv2 = zero(nn.Conv2d(width, width, 3, padding=1))
        self.shortcut = nn.Conv2d(inside, width, 1) if inside != width else nn.Identity()

    def forward(
        self, x: Float[Tensor, "b c h w"], emb: Float[Tensor, "b d"]
    ) -> Float[Tensor, "b e h w"]:
        scale, shift = self.film(emb)[:, :, None, None].chunk(2, dim=1)
        h = self.conv1(swish(self.norm1(x)))
        h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        return self.conv2(swish(h)).add_(self.shortcut(x))


class TextAttention(nn.Module):
    """Each pixel attends to the caption's tokens, one learned null key and, with `to_pixels`,
    to every pixel of its image: text keys and values joined in (paper section 3.2)."""

    def __init__(self, width: int, *, text_dim: int, head_dim: int, to_pixels: bool, norm: str):
        super().__init__()
        self.heads = width // head_dim
        self.to_pixels = to_pixels
        self.norm = make_norm(norm, width)
        self.qkv = nn.Linear(width, 3 * width if to_pixels else width)
        self.text_norm = nn.LayerNorm(text_dim)
        self.text_kv = nn.Linear(text_dim, 2 * width)
        self.null_kv = nn.Parameter(torch.randn(2 * width) * 0.02)
        self.out = zero(nn.Linear(width, width))

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        text: Float[Tensor, "t n d"],
        mask: Bool[Tensor, "t n"],
    ) -> Float[Tensor, "b c h w"]:
        """`t` divides `b`: consecutive images share a caption."""
        images, _, height, width = x.shape
        share = images // text.shape[0]
        tokens = self.qkv(rearrange(self.norm(x), "b c h w -> b (h w) c"))
        parts = rearrange(
            tokens, "b n (p k d) -> p b k n d", k=self.heads, d=x.shape[1] // self.heads
        )
        # Unbound, not indexed: the gradient of an index is a zero tensor of the whole.
        q, *pixels = parts.unbind(0)
        k, v = self._text_keys(text, share)
        seen = F.pad(mask, (1, 0), value=True).repeat_interleave(share, 0)
        if self.to_pixels:
            k, v = (torch.cat([a, b], 2) for a, b in zip((k, v), pixels, strict=True))
            seen = F.pad(seen, (0, height * width), value=True)
        h = attend(q, k, v, mask=seen[:, None, None])
        h = self.out(rearrange(h, "b k n d -> b n (k d)"))
        return x + rearrange(h, "b (h w) c -> b c h w", h=height)

    def _text_keys(self, text: Tensor, share: int) -> tuple[Tensor, Tensor]:
        null = self.null_kv.expand(text.shape[0], 1, -1)
        both = torch.cat([null, self.text_kv(self.text_norm(text))], 1)
        both = rearrange(both, "t n (two k d) -> two t k n d", two=2, k=self.heads)
        k, v = both.repeat_interleave(share, 1).unbind(0)
        return k, v
