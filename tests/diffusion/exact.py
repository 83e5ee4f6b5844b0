"""Denoisers known in closed form, and how to run a sampler over them."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from imagen_video.diffusion.denoised import Denoised, Denoiser
from imagen_video.diffusion.sampler import Move, ddim, denoise_steps, finished
from imagen_video.diffusion.schedule import CosineSchedule, alpha_sigma, expand
from imagen_video.video import PerClip, Video


def clips(values: Sequence[float] | Tensor) -> Video:
    """One clip of one pixel a value, in float64."""
    return torch.as_tensor(values, dtype=torch.float64).reshape(-1, 1, 1, 1, 1)


def levels(b: int, logsnr: float) -> PerClip:
    return torch.full((b,), logsnr, dtype=torch.float64)


def answering(x_of: Callable[[Video, Tensor, Tensor], Video]) -> Denoiser:
    """The denoiser whose x is x_of(z, alpha, sigma)."""

    def denoise(z: Video, logsnr: PerClip) -> Denoised:
        alpha, sigma = (expand(part, z) for part in alpha_sigma(logsnr))
        return Denoised.from_x(z, x_of(z, alpha, sigma), logsnr)

    return denoise


def gaussian(mean: float, std: float) -> Denoiser:
    """The best denoiser of data N(mean, std^2): every move is affine in z and noise."""

    def x_of(z: Video, alpha: Tensor, sigma: Tensor) -> Video:
        gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
        return mean + gain * (z - alpha * mean)

    return answering(x_of)


def two_points(share: float) -> Denoiser:
    """The best denoiser of data that is +1 with probability `share` and -1 otherwise."""
    half_log_odds = torch.tensor(share, dtype=torch.float64).logit() / 2
    return answering(lambda z, alpha, sigma: torch.tanh(alpha * z / sigma**2 + half_log_odds))


def sample(
    denoisers: Sequence[Denoiser],
    schedule: CosineSchedule,
    draw: Callable[[int], Video],
    move: Move = ddim,
) -> Video:
    """The result of a run: the x of its last state."""
    return finished(denoise_steps(denoisers, schedule, draw, move=move))
