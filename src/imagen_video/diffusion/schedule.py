"""Continuous-time noise schedule in log-SNR (paper section 4.1); only home of alpha and sigma."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from imagen_video.shapes import Float
from imagen_video.video import PerClip, Video


@dataclass(frozen=True)
class CosineSchedule:
    """Cosine schedule: t = 0 has log-SNR `logsnr_max`, t = 1 has `logsnr_min`, whatever the shift.

    `shift` moves the levels in between: -5 means that the middle of the way, t = 0.5, is near
    log-SNR -5 instead of 0. Videos are redundant over frames and flat areas, so they need more time
    at high noise. Times and log-SNRs may have any shape; results have the dtype given, or float32
    for half types.
    """

    logsnr_min: float = -20.0
    logsnr_max: float = 20.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        if not self.logsnr_min < self.logsnr_max:
            got = f"[{self.logsnr_min}, {self.logsnr_max}]"
            raise ValueError(f"log-SNR range {got} is empty: logsnr_min must be below logsnr_max")

    def __call__(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The log-SNR at time t in [0, 1]."""
        noise, signal = self._angles(t)
        return 2 * (signal.sin().log() - noise.sin().log()) + self.shift

    def inverse(self, logsnr: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The time at which the schedule has this log-SNR."""
        angle = ((self.shift - _at_least_float32(logsnr)) / 2).exp().atan()
        return (angle - self._lowest_noise) / self._turn

    def slope(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """d logsnr / dt at time t: negative everywhere."""
        noise, signal = self._angles(t)
        return -2 * self._turn / (noise.sin() * signal.sin())

    def _angles(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """a t + b and its complement to a right angle, each measured from its own end of time.

        tan(a t + b) near a right angle would cost float32 three digits of the log-SNR.
        """
        t = _at_least_float32(t)
        return self._turn * t + self._lowest_noise, self._turn * (1 - t) + self._lowest_signal

    @property
    def _lowest_noise(self) -> float:
        return math.atan(math.exp((self.shift - self.logsnr_max) / 2))

    @property
    def _lowest_signal(self) -> float:
        return math.atan(math.exp((self.logsnr_min - self.shift) / 2))

    @property
    def _turn(self) -> float:
        """The a of a t + b: how far the unshifted angle turns from t = 0 to t = 1."""
        return math.pi / 2 - self._lowest_noise - self._lowest_signal


def alpha_sigma(
    logsnr: Float[Tensor, "*shape"],
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """alpha and sigma of z = alpha x + sigma eps; alpha^2 + sigma^2 = 1."""
    return torch.sigmoid(logsnr).sqrt(), torch.sigmoid(-logsnr).sqrt()


def expand(per_clip: PerClip, like: Video) -> Float[Tensor, "b 1 1 1 1"]:
    """One number a clip, ready to multiply `like`: its dtype, as a wider one would spread."""
    return per_clip.to(like).reshape(-1, 1, 1, 1, 1)


def step_times(num_steps: int) -> Float[Tensor, " times"]:
    """The num_steps + 1 times of a sampling run, uniform from 1 to 0, in float64."""
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}; sampling takes at least 1 step")
    return 1 - torch.arange(num_steps + 1, dtype=torch.float64) / num_steps


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
