"""An invisible mark that says "made by imagen-video", and its detector.

A pattern of 198 waves of equal strength, 11 to 32 pixels long, repeats over every frame; their
phases are the key, which is public. The detector searches scale and offset. Whatever a video
without the mark shows, the phases are strangers to it, so the chance of a false alarm is bounded
by a theorem and not by experience (`Detection.p`).
"""

import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from hashlib import shake_256
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from imagen_video.shapes import Float, UInt8
from imagen_video.video import Frames, iter_video, video_info

KEY = b"imagen-video watermark 1"
# Pixels after which the pattern repeats at scale 1, and how many waves may fit in: shorter ones do
# not outlive crf 28 on a flat ground, longer ones are seen.
PERIOD, WAVES = 128, (4, 12)
# Root mean square in 8-bit levels: of a frame of FULL pixels or more (49 dB), and at most (44 dB):
# fewer pixels need more, and below SMALL a finer pattern too.
STRENGTH = 0.85, 1.6
FULL, SMALL = 768 * 1280, 192 * 320
FINEST = 0.25
# Scales that are searched: half of a 24x40 video to an enlargement.
SCALES = (0.17, 1.35)
# Offsets tried each way: a wave is at least GRID / WAVES[1] of them long.
GRID = 64
# Frames looked at, of at most the first REACH; each at most LARGEST pixels, or halved.
LOOKED, REACH, LARGEST = 16, 480, 2**21
LEVEL = 1e-6
"""The chance of a false alarm at which a mark counts as found."""


@dataclass(frozen=True)
class Detection:
    """`z` of the best of `tried` scales and offsets, and the scale of the pattern there."""

    z: float
    tried: int
    scale: float

    @property
    def p(self) -> float:
        """At most this is the chance that a video without the mark reaches `z`, over all keys.

        z is a sum of cosines of uniform phases with any weights, at variance 1; such a sum lies
        above z with a chance of at most exp(-z^2 / 2) (Chernoff; I0(t) <= exp(t^2 / 4)).
        """
        return min(1.0, math.exp(math.log(max(1, self.tried)) - max(self.z, 0.0) ** 2 / 2))

    @property
    def found(self) -> bool:
        return self.p <= LEVEL


@dataclass(frozen=True)
class Waves:
    """The key: `y` and `x` cycles a period and the phase of every wave."""

    y: Float[Tensor, " k"]
    x: Float[Tensor, " k"]
    phase: Float[Tensor, " k"]


@lru_cache
def waves(key: bytes = KEY) -> Waves:
    """Every wave of the band once; its opposite is the same wave."""
    low, high = WAVES
    pairs = [(y, x) for y in range(-high, high + 1) for x in range(high + 1) if x or y > 0]
    pairs = [pair for pair in pairs if low <= math.hypot(*pair) <= high]
    drawn = np.frombuffer(shake_256(key).digest(4 * len(pairs)), "<u4") / 2.0**32
    y, x = torch.tensor(pairs, dtype=torch.float32).unbind(1)
    return Waves(y, x, torch.from_numpy(2 * math.pi * drawn).float())


def mark(frames: Frames) -> Frames:
    """The frames with the mark, the same in each: a few levels up or down in all colours."""
    up, down = (step.to(frames.device) for step in _steps(*frames.shape[-2:]))
    # In 8 bits, without leaving 0..255: a float copy of a chunk takes ten times as long.
    return torch.minimum(frames, 255 - up).add_(up).clamp_(min=down).sub_(down)


@lru_cache(maxsize=4)
def _steps(height: int, width: int) -> tuple[UInt8[Tensor, "h w"], UInt8[Tensor, "h w"]]:
    """What is added and what is taken away at each pixel."""
    pixels = height * width
    scale = min(1.0, max(FINEST, (pixels / SMALL) ** 0.25))
    least, most = STRENGTH
    strength = min(most, least * max(1.0, (FULL / pixels) ** 0.3))
    step = (strength * pattern(height, width, scale=scale)).round()
    return step.clamp(min=0).to(torch.uint8), (-step).clamp(min=0).to(torch.uint8)


def pattern(height: int, width: int, *, scale: float) -> Float[Tensor, "{height} {width}"]:
    """The waves of the key added up, with a mean square of one."""
    key, high = waves(), WAVES[1]
    table = torch.zeros(2 * high + 1, high + 1, dtype=torch.complex64)
    table[(key.y + high).long(), key.x.long()] = torch.polar(torch.ones_like(key.phase), key.phase)
    turn = 2 * math.pi / (PERIOD * scale)
    rows = torch.outer(turn * torch.arange(height), torch.arange(-high, high + 1.0))
    columns = torch.outer(torch.arange(high + 1.0), turn * torch.arange(width))
    ones = torch.ones(())
    total = torch.polar(ones, rows) @ table @ torch.polar(ones, columns)
    return total.real * math.sqrt(2 / len(key.phase))


def detect_file(path: str | Path) -> Detection:
    """`detect` on frames spread over a file; ValueError if it is no readable video."""
    every = max(1, min(video_info(path).frames, REACH) // LOOKED)
    with closing(iter_video(path, every=every)) as frames:
        return detect(torch.stack(list(islice(frames, LOOKED))))


def detect(frames: Frames, *, key: bytes = KEY) -> Detection:
    """The place where the waves of the key agree best with what all frames have in common."""
    best, tried = Detection(0.0, 0, 1.0), 0
    for scales, z in surfaces(frames, key=key):
        tried += z.numel()
        top = z.flatten(1).amax(1)
        at = int(top.argmax())
        if top[at] > best.z:
            best = Detection(float(top[at]), 0, float(scales[at]))
    return Detection(best.z, tried, best.scale)


def surfaces(frames: Frames, *, key: bytes = KEY) -> Iterator[tuple[Tensor, Tensor]]:
    """Some scales of the pattern at a time, and z of every offset at each."""
    spectra = _Spectra(_slopes(frames))
    known = waves(key)
    least, most = (1 / scale for scale in reversed(SCALES))
    # So fine that in the corners the shortest wave is a quarter of its length off at most.
    step = PERIOD / WAVES[1] / math.hypot(*spectra.size)
    for inverse in torch.arange(least, most, step).split(64):
        found = spectra.at(inverse[:, None] / PERIOD * known.y, inverse[:, None] / PERIOD * known.x)
        size = found.abs()
        # Between a matched filter and phases alone: a strong wave is content, not mark.
        found = found / (size + size.mean(1, keepdim=True) + 1e-9)
        norm = found.abs().square().sum(1).div(2).sqrt().clamp(min=1e-9)
        table = torch.zeros(len(inverse), GRID, GRID, dtype=torch.complex64)
        agreed = torch.polar(torch.ones_like(known.phase), -known.phase) * found / norm[:, None]
        table[:, known.y.long() % GRID, known.x.long()] = agreed
        yield 1 / inverse, torch.fft.ifft2(table, norm="forward").real


def _slopes(frames: Frames) -> Float[Tensor, "2 h w"]:
    """Differences of brightness down and to the right, summed over the frames; steep ones, which
    are edges, count little (the influence of a Cauchy distribution)."""
    weights = frames.new_tensor([0.2126, 0.7152, 0.0722], dtype=torch.float32)
    total = None
    for frame in frames:
        light = torch.einsum("c h w, c -> h w", frame.float(), weights)
        while light.numel() > LARGEST:
            light = F.avg_pool2d(light[None], 2)[0]
        slopes = light.new_zeros(2, *light.shape)
        slopes[0, :-1], slopes[1, :, :-1] = light.diff(dim=0), light.diff(dim=1)
        slopes = slopes / (1 + slopes**2)
        total = slopes if total is None else total.add_(slopes)
    assert total is not None
    return total.cpu()


class _Spectra:
    """The Fourier transform of a frame's slopes, at any frequency."""

    def __init__(self, slopes: Float[Tensor, "2 h w"]):
        self.size = slopes.shape[-2:]
        # Twice the size, so that a line between two frequencies is nearly the curve; with the
        # centre of the frame at the origin it has the fewest turns.
        self.padded = [-(-2 * side // 64) * 64 for side in self.size]
        placed = F.pad(slopes, (0, self.padded[1] - self.size[1], 0, self.padded[0] - self.size[0]))
        placed = placed.roll([-(side // 2) for side in self.size], (1, 2))
        spectra = torch.fft.fftshift(torch.fft.rfft2(placed), 1)
        self.parts = torch.cat([spectra.real, spectra.imag])[None]

    def at(self, y: Float[Tensor, "s k"], x: Float[Tensor, "s k"]) -> Tensor:
        """Brightness, put together again from its slopes, at y and x cycles a pixel; zero where
        pixels do not show them."""
        (height, width), columns = self.padded, self.parts.shape[-1]
        place = torch.stack(
            [2 * x * width / (columns - 1) - 1, (2 * y + 1) * height / (height - 1) - 1], -1
        )
        parts = F.grid_sample(self.parts, place[None], align_corners=True)[0]
        down, right = torch.complex(parts[0], parts[2]), torch.complex(parts[1], parts[3])
        turn_y = torch.polar(torch.ones_like(y), 2 * math.pi * y) - 1
        turn_x = torch.polar(torch.ones_like(x), 2 * math.pi * x) - 1
        power = turn_y.abs().square() + turn_x.abs().square()
        whole = (turn_y.conj() * down + turn_x.conj() * right) / power
        return torch.where((y.abs() < 0.48) & (x < 0.48), whole, torch.zeros_like(whole))
