"""The direction of guidance, read off a network's features by a small one beside it."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from imagen_video.shapes import Float
from imagen_video.spec_unet import UNetSpec
from imagen_video.unet.spatial import make_norm, swish, zero

BLOCKS = 3


class GuidanceSide(nn.Module):
    """What two calls differ by, with the caption and without it (paper section 8.1), in one: the
    network that it reads stays as it is, whatever the weight.

    It looks at what the finest level makes on the way down and every level on the way up, at z and
    at what the network makes of it; frames have been mixed there. It starts at zero.
    """

    def __init__(self, spec: UNetSpec):
        super().__init__()
        assert spec.side is not None
        width, pixels = spec.side, 3 * spec.patch**2
        read = (*spec.widths[:1], *spec.widths[::-1])
        # No weights of its own: torch 2.13's group norm crashes on CPUs where they are trained and
        # what it norms is not.
        self.norms = nn.ModuleList(make_norm(spec.norm, c, affine=False) for c in read)
        self.inside = nn.ModuleList(nn.Conv2d(c, width, 1) for c in read)
        self.seen = nn.Conv2d(2 * pixels, width, 3, padding=1)
        self.emb = nn.Linear(spec.embed_dim, width)
        self.blocks = nn.ModuleList(SideBlock(width, norm=spec.norm) for _ in range(BLOCKS))
        self.out_norm = make_norm(spec.norm, width)
        self.out = zero(nn.Conv2d(width, pixels, 3, padding=1))

    def forward(
        self,
        features: Sequence[Float[Tensor, "bf _c _h _w"]],
        seen: Float[Tensor, "bf two_cpp h w"],
        emb: Float[Tensor, "bf d"],
    ) -> Float[Tensor, "bf cpp h w"]:
        """`features` are those of the finest level on the way down, then of every level on the way
        up; `seen` are z and the network's answer, folded, one after the other in channels."""
        h = self.seen(seen)
        for norm, conv, feature in zip(self.norms, self.inside, features, strict=True):
            part = conv(F.silu(norm(feature)))
            h = h + F.interpolate(part, size=h.shape[-2:], mode="nearest")
        emb = F.silu(self.emb(emb))
        for block in self.blocks:
            h = block(h, emb)
        return self.out(swish(self.out_norm(h)))


class SideBlock(nn.Module):
    """norm, scale-shift, swish, convolution, and a shortcut: half of a `ResBlock`."""

    def __init__(self, width: int, *, norm: str):
        super().__init__()
        self.norm = make_norm(norm, width)
        self.film = nn.Linear(width, 2 * width)
        self.conv = zero(nn.Conv2d(width, width, 3, padding=1))

    def forward(
        self, x: Float[Tensor, "bf c h w"], emb: Float[Tensor, "bf c"]
    ) -> Float[Tensor, "bf c h w"]:
        scale, shift = self.film(emb)[:, :, None, None].chunk(2, dim=1)
        return x + self.conv(swish(shift + self.norm(x) * (1 + scale)))
