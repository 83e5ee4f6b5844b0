"""Plain measures: PSNR, what upsampling must beat, and how sure a share of right answers is."""

import math

import torch
from torch import Tensor

from imagen_video.shapes import UInt8
from imagen_video.video import Frames

T_975 = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622)
"""Student's t for 95 % intervals of 2 to 10 values."""
CHUNK = 8
"""Frames compared at a time: the float copies of a whole 768 x 1280 clip would take 3 GB."""


def squared_error(video: UInt8[Tensor, "f c h w"], truth: UInt8[Tensor, "f c h w"]) -> float:
    """Mean squared error of 8-bit videos, in steps of 1/255."""
    total = 0.0
    for start in range(0, len(truth), CHUNK):
        part = slice(start, start + CHUNK)
        difference = video[part].float() - truth[part].float()
        total += difference.square().sum(dtype=torch.float64).item()
    return total / truth.numel()


def decibels(error: float) -> float:
    """Mean squared error of 8-bit values as peak signal-to-noise ratio; infinite for no error."""
    return 10 * math.log10(255**2 / error) if error > 0 else math.inf


def psnr(video: UInt8[Tensor, "f c h w"], truth: UInt8[Tensor, "f c h w"]) -> float:
    """PSNR over the whole clip, in dB, of 8-bit videos."""
    return decibels(squared_error(video, truth))


def blend(known: Frames, factor: int) -> UInt8[Tensor, "high_f c h w"]:
    """Temporal upsampling without a model: the frames between are mixtures of their neighbours.

    After the last known frame there is no neighbour, and it is repeated.
    """
    here = known.float()
    after = torch.cat([here[1:], here[-1:]])
    share = torch.arange(factor).view(1, factor, 1, 1, 1) / factor
    mixed = torch.lerp(here[:, None], after[:, None], share)
    return mixed.flatten(0, 1).round_().to(torch.uint8)


def wilson(right: float | int, of: int) -> tuple[float, float]:
    """The 95 % Wilson interval of a share of right answers."""
    if not 0 <= right <= of or of == 0:
        raise ValueError(f"{right} right answers of {of} are no share")
    z = 1.959964
    share, spread = right / of, z * z / of
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread * spread / 4) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def student(mean: float, deviation: float, of: int) -> tuple[float, float]:
    """Student's 95 % interval of the mean of two or more values, of which this is the sample
    standard deviation."""
    free = of - 1
    if free <= len(T_975):
        t = T_975[free - 1]
    else:  # Cornish and Fisher's expansion, right to 4 digits from there on
        z = 1.959964
        t = z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
        t += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * free**3)
    half = t * deviation / of**0.5
    return mean - half, mean + half


def percent(right: int, of: int) -> str:
    """Right answers as "97.3 (96.1-98.2) of 1000": per cent, Wilson interval, how many asked."""
    low, high = wilson(right, of)
    return f"{100 * right / of:.1f} ({100 * low:.1f}-{100 * high:.1f}) of {of}"
