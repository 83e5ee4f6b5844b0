"""The space-time separable video U-Net (paper section 2)."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from imagen_video.shapes import Bool, Float, Int
from imagen_video.spec_unet import UNetSpec
from imagen_video.unet.embed import LevelEmbedding, NumberEmbedding, TextIn, TextPool
from imagen_video.unet.inputs import Conditioning
from imagen_video.unet.patches import fold, unfold
from imagen_video.unet.side import GuidanceSide
from imagen_video.unet.spatial import ResBlock, TextAttention, make_norm, swish, zero
from imagen_video.unet.temporal import FramePosition, PlaceAndTime, make_temporal
from imagen_video.video import ALL, PerClip, Video

LONG_SKIP = 2**-0.5
# Guidance weights that differ by a tenth are told apart.
WEIGHT_SCALE = 10


class Block(nn.Module):
    """Spatial convolutions, attention where the level has it, then the mixing of frames."""

    def __init__(self, spec: UNetSpec, level: int, inside: int):
        super().__init__()
        width = spec.widths[level]
        self.res = ResBlock(inside, width, embed_dim=spec.embed_dim, norm=spec.norm)
        self.attention = None
        if level in spec.attention_levels + spec.cross_levels:
            self.attention = TextAttention(
                width,
                text_dim=spec.text_dim,
                head_dim=spec.head_dim,
                to_pixels=level in spec.attention_levels,
                norm=spec.norm,
            )
        self.temporal = None
        if level in spec.temporal_levels:
            self.temporal = make_temporal(
                spec.temporal, width, head_dim=min(spec.head_dim, width), norm=spec.norm
            )

    def forward(self, h: Tensor, told: "Told") -> Tensor:
        h = self.res(h, told.emb)
        if self.attention is not None:
            h = self.attention(h, told.text, told.text_mask)
        if self.temporal is not None:
            h = self.temporal(h, told.is_video, told.index)
        return h


class Blocks(nn.ModuleList):
    """The blocks of one level on one way, one after the other."""

    def forward(self, h: Tensor, told: "Told") -> Tensor:
        for block in self:
            h = block(h, told)
        return h


class Told:
    """What every block is told: an embedding a frame, captions, kinds of clip, frame numbers."""

    def __init__(
        self,
        emb: Float[Tensor, "bf d"],
        text: Float[Tensor, "t n c"],
        text_mask: Bool[Tensor, "t n"],
        is_video: Bool[Tensor, " b"],
        index: Int[Tensor, " f"],
    ):
        self.emb, self.text, self.text_mask = emb, text, text_mask
        self.is_video, self.index = is_video, index

    def of(self, inner: slice) -> "Told":
        """What blocks that see these frames alone are told; captions hold for whole clips."""
        emb = frames_of(self.emb, inner, len(self.is_video))
        return Told(emb, self.text, self.text_mask, self.is_video, self.index[inner])


class VideoUNet(nn.Module):
    """(z, logsnr, conditioning) -> a video of the same shape, read as v or x by the stage.

    Every path outside the temporal layers treats frames as a batch of images. The output starts
    at exactly zero, or, where x is predicted from a low-resolution video, at that video upsampled
    bilinearly.
    """

    def __init__(self, spec: UNetSpec, *, low_channels: int = 0, space_factor: int = 1):
        super().__init__()
        self.spec = spec
        self.low_fold = max(1, spec.patch // space_factor)
        pixels = 3 * spec.patch**2
        low = low_channels * self.low_fold**2
        # A patch is embedded by itself, like a ViT's; plain pixels see their neighbours at once.
        kernel = 3 if spec.patch == 1 else 1
        self.z_in = nn.Conv2d(pixels, spec.widths[0], kernel, padding=kernel // 2)
        self.low_in = nn.Conv2d(low, spec.widths[0], 3, padding=1) if low else None
        self.level = LevelEmbedding(spec.embed_dim)
        self.low_level = LevelEmbedding(spec.embed_dim) if low else None
        self.guidance = None
        if spec.guided and spec.side is None:  # a few weights need few features
            self.guidance = NumberEmbedding(spec.embed_dim, spec.embed_dim // 4)
            zero(self.guidance.outer)  # a student begins as its teacher
        self.pool = TextPool(spec.text_dim, spec.embed_dim, spec.head_dim)
        # Only a base decides where things are; super-resolution is told, and trains on crops.
        self.position = self.place = self.text_in = None
        if spec.temporal == "attention":
            self.position = FramePosition(spec.embed_dim)
            self.place = PlaceAndTime(spec.widths[0])
            self.text_in = TextIn(spec.text_dim)
        self._build_levels(spec)
        self.side = None if spec.side is None else GuidanceSide(spec)
        self.out_norm = make_norm(spec.norm, spec.widths[0])
        self.out = zero(nn.Conv2d(spec.widths[0], pixels, 3, padding=1))
        # What the low-resolution video says linearly goes straight to the output: the features
        # of a folded stage have too few channels to copy it beside everything else.
        self.low_out = None
        if low:
            self.low_out = nn.Conv2d(low, pixels, 3, padding=1)
            zero(self.low_out)
            if spec.predicts == "x":
                factor = spec.patch // self.low_fold
                start_as_bilinear(self.low_out, fold=self.low_fold, factor=factor)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def _build_levels(self, spec: UNetSpec) -> None:
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        for level, (width, blocks) in enumerate(zip(spec.widths, spec.blocks, strict=True)):
            if level:
                self.shrink.append(nn.Conv2d(spec.widths[level - 1], width, 2, stride=2))
                self.grow.append(nn.Conv2d(width, spec.widths[level - 1], 1))
            self.down.append(Blocks(Block(spec, level, width) for _ in range(blocks)))
            if level < len(spec.widths) - 1:
                # The long skip joins before the first block of the way up.
                inside = [2 * width] + [width] * (blocks - 1)
                self.up.append(Blocks(Block(spec, level, i) for i in inside))

    def forward(
        self, z: Video, logsnr: PerClip, cond: Conditioning, inner: slice = ALL
    ) -> Float[Tensor, "b _f c h w"]:
        """Height and width must be multiples of `spec.multiple` (ValueError names the nearest).

        Of a window of frames, only the `inner` ones are answered for: the others are there to be
        looked at, and dropped where nothing after mixes frames any more.
        """
        clips = z.shape[0]
        self._check(z, cond)
        low = self._fold_low(z, cond)
        told = self._tell(logsnr, cond, z.shape[1])
        folded = fold(z.to(self.level.inner.weight.dtype), self.spec.patch)
        h = self.z_in(folded)
        if self.place is not None:
            h = h + self.place((h.shape[2], h.shape[3]), told.index, cond.is_video)
        if low is not None and self.low_in is not None:
            h = h.add_(self.low_in(low))
        asked = self.side is not None and cond.guidance is not None
        features = self._levels(h, told, inner, keep=asked)
        raw = self.out(swish(self.out_norm(features[-1])))
        if low is not None and self.low_out is not None:
            raw = raw.add_(self.low_out(frames_of(low, inner, clips)))
        if self.side is not None and cond.guidance is not None:
            seen = torch.cat([frames_of(folded, inner, clips), raw], 1)
            along = self.side(features, seen, told.of(inner).emb)
            raw = raw + frames_like(cond.guidance, raw) * along
        return unfold(raw, self.spec.patch, clips)

    def _levels(self, h: Tensor, told: Told, inner: slice, *, keep: bool) -> list[Tensor]:
        """Features, the last those of the answer; to `keep`, all that a side network looks at."""
        skips, kept, clips = [], [], len(told.is_video)
        for level, blocks in enumerate(self.down):
            if level:
                skips.append(h)
                h = self.shrink[level - 1](h)
            h = blocks(h, told)
            if keep and not level:
                kept.append(h)
        for level in reversed(range(-1, len(self.up))):
            if level + 1 == min((*self.spec.temporal_levels, len(self.up))):
                # No layer that is left mixes frames.
                h, told = frames_of(h, inner, clips), told.of(inner)
                skips = [frames_of(skip, inner, clips) for skip in skips]
                kept = [frames_of(features, inner, clips) for features in kept]
            if level < 0 or keep:
                kept.append(h)
            if level >= 0:
                h = F.interpolate(self.grow[level](h), scale_factor=2.0, mode="nearest")
                h = torch.cat([h, skips[level] * LONG_SKIP], 1)
                h = self.up[level](h, told)
        return kept

    def _tell(self, logsnr: PerClip, cond: Conditioning, frames: int) -> Told:
        text = cond.text.to(self.level.inner.weight.dtype).flatten(0, 1)
        if self.text_in is not None:
            text = self.text_in(text)
        mask = cond.text_mask.flatten(0, 1)
        pooled = self.pool(text, mask).unflatten(0, cond.text.shape[:2])
        emb = self.level(logsnr)[:, None] + pooled
        if self.low_level is not None and cond.lowres_logsnr is not None:
            emb = emb + self.low_level(cond.lowres_logsnr)[:, None]
        if self.guidance is not None and cond.guidance is not None:
            emb = emb + self.guidance(WEIGHT_SCALE * cond.guidance)[:, None]
        emb = emb.expand(-1, frames, -1)
        index = cond.frame_index
        if index is None:
            index = torch.arange(frames, device=cond.is_video.device)
        if self.position is not None:
            emb = emb + self.position(index, cond.is_video)
        return Told(F.silu(emb.flatten(0, 1)), text, mask, cond.is_video, index)

    def _fold_low(self, z: Video, cond: Conditioning) -> Tensor | None:
        """The conditioning video on the grid of the folded features.

        Finer than the grid, it is folded into channels; coarser, it is upsampled bilinearly
        (paper section 3.1). A convolution over the folded video contains that upsampling.
        """
        if cond.lowres is None:
            return None
        low = fold(cond.lowres.to(self.level.inner.weight.dtype), self.low_fold)
        grid = (z.shape[-2] // self.spec.patch, z.shape[-1] // self.spec.patch)
        if low.shape[-2:] == grid:
            return low
        return F.interpolate(low, size=grid, mode="bilinear")

    def _check(self, z: Video, cond: Conditioning) -> None:
        height, width = z.shape[-2:]
        step = self.spec.multiple
        if height % step or width % step:
            near = [max(step, step * round(side / step)) for side in (height, width)]
            raise ValueError(
                f"{height}x{width} (height x width) does not fit {len(self.spec.widths)} levels of "
                f"patch {self.spec.patch}: use multiples of {step}, such as {near[0]}x{near[1]}"
            )
        if (cond.lowres is None) != (self.low_in is None):
            raise ValueError(
                "this stage needs a low-resolution video"
                if cond.lowres is None
                else "a base stage takes no low-resolution video"
            )
        plain = self.side is not None and cond.guidance is None
        if (cond.guidance is None) == (self.spec.guided is not None) and not plain:
            raise ValueError(
                "this network has learned guidance: tell it the weight"
                if self.spec.guided
                else "this network has not learned guidance and takes no weight"
            )
        if cond.text.shape[1] not in (1, z.shape[1]):
            raise ValueError(
                f"got {cond.text.shape[1]} captions for {z.shape[1]} frames: give 1 or one a frame"
            )


@torch.no_grad()
def start_as_bilinear(conv: nn.Conv2d, *, fold: int, factor: int) -> None:
    """Let a 3x3 convolution over folded pixels be bilinear upsampling of the first three channels.

    Each output patch depends on the low-resolution pixels of its own and the eight cells around:
    the weights are the upsampled impulses of those.
    """
    side, patch = 3 * fold, fold * factor
    impulses = torch.eye(side * side).reshape(-1, 1, side, side)
    seen = F.interpolate(impulses, scale_factor=float(factor), mode="bilinear")
    seen = seen[:, 0, patch : 2 * patch, patch : 2 * patch]
    kernel = rearrange(seen, "(y i x j) p q -> (p q) (i j) y x", y=3, x=3, i=fold, j=fold)
    inputs, outputs = fold * fold, patch * patch
    for c in range(3):
        conv.weight[c * outputs : (c + 1) * outputs, c * inputs : (c + 1) * inputs] = kernel


def frames_like(number: PerClip, x: Float[Tensor, "bf ..."]) -> Float[Tensor, "bf 1 1 1"]:
    """A number a clip as one a frame, to multiply with."""
    return number.to(x).repeat_interleave(len(x) // len(number)).view(-1, 1, 1, 1)


def frames_of(x: Float[Tensor, "bf ..."], inner: slice, clips: int) -> Float[Tensor, "n ..."]:
    """Some frames of every clip."""
    return x if inner == ALL else x.unflatten(0, (clips, -1))[:, inner].flatten(0, 1)
