"""The one place where an attention kernel is chosen."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from imagen_video.shapes import Bool, Float

# Up to this many keys a CPU trains faster with plain products than with the fused kernel, whose
# backward pass is slow for many short sequences (docs/log.md).
SHORT = 1024


def attend(
    q: Float[Tensor, "b k n d"],
    k: Float[Tensor, "b k m d"],
    v: Float[Tensor, "b k m d"],
    *,
    mask: Bool[Tensor, "b 1 #n m"],
    bias: Float[Tensor, "1 k n m"] | None = None,
) -> Float[Tensor, "b k n d"]:
    """softmax(q k^T / sqrt(d) + bias) v over the keys that `mask` allows.

    A masked key has weight and gradient exactly zero. Every query must see at least one key.
    """
    added = torch.zeros((), dtype=q.dtype, device=q.device) if bias is None else bias.to(q.dtype)
    added = torch.where(mask, added, -torch.inf)
    if k.shape[2] > SHORT or q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=added)
    logits = (q * (1 / math.sqrt(q.shape[-1]))) @ k.transpose(-1, -2)
    return (logits + added).softmax(-1) @ v
