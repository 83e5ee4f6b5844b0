"""Pixels as channels, and back: what large frames are folded into before a network sees them."""

import torch
from einops import rearrange
from torch import Tensor

from imagen_video.shapes import Float

# By size in bytes; integers, which nothing rounds, where there are any.
WIDE = (torch.complex128, torch.int64, torch.int32)


def fold(x: Float[Tensor, "b f c H W"], patch: int) -> Float[Tensor, "bf cpp h w"]:
    """Frames into the batch and p x p pixels into channels, channels-last in memory."""
    runs = in_runs(x, patch)
    q = patch * runs.shape[-1] // x.shape[-1]
    folded = rearrange(runs, "b f c (h p) (w q) -> (b f) h w (c p q)", p=patch, q=q)
    return seen_as(folded.contiguous(), x.dtype).permute(0, 3, 1, 2)


def unfold(x: Float[Tensor, "bf cpp h w"], patch: int, clips: int) -> Float[Tensor, "b f c H W"]:
    """The inverse of `fold`."""
    runs = in_runs(x.permute(0, 2, 3, 1), patch)
    q = patch * runs.shape[-1] // x.shape[1]
    form = "(b f) h w (c p q) -> b f c (h p) (w q)"
    return seen_as(rearrange(runs, form, b=clips, p=patch, q=q).contiguous(), x.dtype)


def in_runs(x: Tensor, run: int) -> Tensor:
    """The last axis with every `run` numbers as one or a few wide ones, whose copies take a CPU a
    third of the time; as it is where a gradient passes, which knows no such view."""
    size = x.element_size()
    fits = [wide for wide in WIDE if run * size % wide.itemsize == 0 and wide.itemsize > size]
    if x.requires_grad or x.device.type != "cpu" or not fits:
        return x
    return seen_as(x.contiguous(), fits[0])


def seen_as(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The same bytes in another type. A view in the same type would lose the gradient too."""
    return x if x.dtype == dtype else x.view(dtype)
