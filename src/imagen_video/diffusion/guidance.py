"""Classifier-free guidance, its weight over the steps, and thresholding (paper sections 5.2, 5.3).

Convention of the paper and of this code: x = (1 + w) x_cond - w x_uncond, so **weight 0 means
off**. Half the field writes w x_cond + (1 - w) x_uncond, where 1 means off: its weight is ours plus
one.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from imagen_video.diffusion.denoised import Denoised, Denoiser
from imagen_video.diffusion.schedule import CosineSchedule, expand, step_times
from imagen_video.shapes import Float, Int
from imagen_video.spec import GuidanceSpec
from imagen_video.video import PerClip, Video

Rule = Callable[[Video], Video]


def guidance_weights(spec: GuidanceSpec, num_steps: int, schedule: CosineSchedule) -> list[float]:
    """One weight a step, as the spec describes: constant, oscillating, and within an interval.

    The interval is in log-SNR and not in steps, so that it means the same for any number of steps.
    """
    levels = schedule(step_times(num_steps))[:-1]
    weight = torch.full_like(levels, spec.weight)
    return weight_at(spec, weight, torch.arange(num_steps), levels).tolist()


def weight_at(
    spec: GuidanceSpec, weight: Float[Tensor, " n"], step: Int[Tensor, " n"], logsnr: PerClip
) -> Float[Tensor, " n"]:
    """The weights at steps of a run, where `weight` stands for the spec's own."""
    since = step - spec.constant_steps
    if spec.low is not None:
        weight = torch.where((since >= 0) & (since % 2 == 0), spec.low, weight)
    if spec.interval is not None:
        least, most = spec.interval
        weight = torch.where((least <= logsnr) & (logsnr <= most), weight, 0.0)
    return weight


def guided(doubled: Denoiser, weight: float | PerClip) -> Denoiser:
    """Guidance by one call: `doubled` is bound to the conditioning of 2 b clips, cond ++ uncond.

    Weight 0 is off (it would still pay for both halves: `guided_denoisers` leaves them out).
    """

    def denoise(z: Video, logsnr: PerClip) -> Denoised:
        both = doubled(torch.cat([z, z]), torch.cat([logsnr, logsnr]))
        (answered, _), (cond, uncond) = both.z.chunk(2), both.v.chunk(2)
        along = expand(weight, z) if isinstance(weight, Tensor) else weight
        return Denoised(answered, torch.lerp(uncond, cond, 1 + along), logsnr)

    return denoise


def thresholded(denoise: Denoiser, rule: Rule) -> Denoiser:
    """The denoiser with its x put through `rule`, eps and v following from it."""

    def clipped(z: Video, logsnr: PerClip) -> Denoised:
        now = denoise(z, logsnr)
        return Denoised.from_x(now.z, rule(now.x), logsnr)

    return clipped


def guided_denoisers(
    plain: Denoiser, doubled: Denoiser, weights: Sequence[float], *, rule: Rule | None = None
) -> list[Denoiser]:
    """One denoiser a step; steps of equal weight share one, which multistep moves look at.

    Weight 0 is `plain` as it is; guided steps are thresholded by `rule`, as it is guidance that
    leaves [-1, 1].
    """
    by_weight: dict[float, Denoiser] = {0.0: plain}
    for weight in weights:
        if weight not in by_weight:
            denoise = guided(doubled, weight)
            by_weight[weight] = thresholded(denoise, rule) if rule else denoise
    return [by_weight[weight] for weight in weights]


def static_threshold(x: Video) -> Video:
    """x clipped to [-1, 1]."""
    return x.clamp(-1, 1)


def dynamic_threshold(percentile: float) -> Rule:
    """Clip each clip to its own range and scale that to [-1, 1]; 0.995 in Imagen.

    The range is the percentile of |x| over the whole clip, at least 1: per frame the brightness
    would flicker.
    """
    if not 0 < percentile <= 1:
        raise ValueError(f"percentile is {percentile}; it is a fraction in (0, 1], such as 0.995")

    def rule(x: Video) -> Video:
        sizes = [quantile(clip.abs().flatten(), percentile) for clip in x]
        limit = expand(torch.stack(sizes).clamp(min=1), x)
        return x.clamp(-limit, limit).div_(limit)

    return rule


def quantile(values: Float[Tensor, " n"], fraction: float) -> Float[Tensor, ""]:
    """`torch.quantile` with linear interpolation, without its limit of 16 million elements."""
    rank = fraction * (len(values) - 1)
    below = math.floor(rank)
    lower = values.kthvalue(below + 1).values
    if rank == below:
        return lower
    upper = values.kthvalue(below + 2).values
    return torch.lerp(lower, upper, rank - below)
