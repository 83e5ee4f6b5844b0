"""A small network that looks at clips, whatever their size and length: the trunk of the judges."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imagen_video.shapes import Float
from imagen_video.unet.patches import fold
from imagen_video.video import Frames, resize, to_float


@dataclass(frozen=True, kw_only=True)
class ViewSpec:
    """What a network of clips looks at.

    It sees `frames` frames, evenly spaced, at `height` x `width`. With `over_time` it sees how
    they follow each other; without, each frame votes on its own.
    """

    frames: int
    height: int
    width: int
    over_time: bool
    patch: int = 2
    widths: tuple[int, ...] = (32, 64, 96)


def view(clip: Frames, spec: ViewSpec) -> Float[Tensor, "frames 3 height width"]:
    """The frames that a network looks at, in its size; ValueError for a clip that has too few."""
    if len(clip) < spec.frames or clip.shape[-2] < spec.height:
        got = "x".join(map(str, (len(clip), *clip.shape[-2:])))
        wants = f"{spec.frames}x{spec.height}x{spec.width}"
        raise ValueError(f"this judge looks at {wants}, the clip is only {got}: use a smaller one")
    chosen = torch.arange(spec.frames) * len(clip) // spec.frames
    return resize(to_float(clip[chosen])[None], spec.height, spec.width)[0]


class ClipNet(nn.Module):
    """Folded pixels, residual space-time convolutions at halving sizes, a mean over everything.

    Ends in `outputs` numbers a clip: logits of answers, or an embedding.
    """

    def __init__(self, spec: ViewSpec, outputs: int):
        super().__init__()
        self.spec = spec
        channels = spec.widths[0]
        # RGB, where it is (motion is where to when), and how far from the ground's colour it is.
        self.stem = nn.Linear(6 * spec.patch**2, channels)
        layers: list[nn.Module] = []
        for i, width in enumerate(spec.widths):
            if i:
                layers += [Halve(channels, width), Residual(width, spec.over_time)]
            layers.append(Residual(width, spec.over_time))
            channels = width
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Dropout(0.1), nn.Linear(2 * channels, outputs))

    def forward(self, video: Float[Tensor, "b f 3 h w"]) -> Float[Tensor, "b outputs"]:
        """The outputs for clips in [-1, 1] of the spec's size."""
        x = fold(_with_place(video), self.spec.patch).permute(0, 2, 3, 1)
        x = self.stem(x.unflatten(0, video.shape[:2])).movedim(-1, 1)
        x = x.contiguous(memory_format=torch.channels_last_3d)
        x = self.body(x)
        votes = torch.cat([x.mean((3, 4)), x.amax((3, 4))], 1).movedim(1, 2)
        if self.spec.over_time:
            votes = votes.mean(1, keepdim=True)
        return self.head(votes).float().mean(1)


def _with_place(video: Float[Tensor, "b f 3 h w"]) -> Float[Tensor, "b f 6 h w"]:
    """Three more channels: x and y in [-1, 1], and the distance from the frame's corners."""
    b, f, _, h, w = video.shape
    corners = video[..., :: h - 1, :: w - 1]
    ground = corners.flatten(-2).movedim(1, -1).flatten(-2).median(-1).values
    away = (video - ground[:, None, :, None, None]).square().sum(2, keepdim=True).sqrt()
    y = torch.linspace(-1, 1, h).to(video)[:, None].expand(b, f, 1, h, w)
    x = torch.linspace(-1, 1, w).to(video).expand(b, f, 1, h, w)
    return torch.cat([video, away, y, x], 2)


class Residual(nn.Module):
    """Two convolutions around a skip, the first also over three frames if asked for."""

    def __init__(self, width: int, over_time: bool):
        super().__init__()
        taps = 3 if over_time else 1
        self.first = nn.Conv3d(width, width, (taps, 3, 3), padding=(taps // 2, 1, 1), bias=False)
        self.second = nn.Conv3d(width, width, (1, 3, 3), padding=(0, 1, 1), bias=False)
        self.before, self.between = nn.BatchNorm3d(width), nn.BatchNorm3d(width)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.first(F.relu(self.before(x)))
        return x + self.second(F.relu(self.between(inner)))


class Halve(nn.Module):
    """Half the height and width, more channels."""

    def __init__(self, width_in: int, width_out: int):
        super().__init__()
        self.conv = nn.Conv3d(width_in, width_out, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)
