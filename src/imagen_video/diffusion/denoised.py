"""What a network knows about a noisy video: x, eps and v at once (paper section 4.2)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from imagen_video.diffusion.schedule import alpha_sigma, expand
from imagen_video.video import PerClip, Video


@dataclass(frozen=True)
class Denoised:
    """A noisy video z, the predicted velocity v = alpha eps - sigma x, and their log-SNR.

    x and eps are computed when asked for: the last stage's clip has 377 million elements, and
    holding all of z, v, x and eps would be the memory of the whole run.
    """

    z: Video
    v: Video
    logsnr: PerClip

    @property
    def x(self) -> Video:
        """The clean video, alpha z - sigma v."""
        return self.at(torch.full_like(self.logsnr, torch.inf))

    @property
    def eps(self) -> Video:
        """The noise, sigma z + alpha v (dividing z - alpha x by sigma would lose precision)."""
        return self.at(torch.full_like(self.logsnr, -torch.inf))

    def at(self, logsnr: PerClip) -> Video:
        """This prediction at another noise level, alpha x + sigma eps: DDIM (paper section 5.1).

        It turns z towards v, so it needs two coefficients and allocates nothing but the result.
        """
        along_z, along_v = _turn(self.logsnr, logsnr)
        return self.v.mul(expand(along_v, self.z)).addcmul_(self.z, expand(along_z, self.z))

    def turned(self, logsnr: PerClip) -> Video:
        """`at` in the memory of v, which is then lost: of the last stage's clip that is 1.5 GB."""
        along_z, along_v = _turn(self.logsnr, logsnr)
        return self.v.mul_(expand(along_v, self.z)).addcmul_(self.z, expand(along_z, self.z))

    @classmethod
    def from_x(cls, z: Video, x: Video, logsnr: PerClip) -> "Denoised":
        """The prediction whose clean video is x: v = (alpha z - x) / sigma.

        v carries the rounding of x and z magnified by 1 / sigma (float32 at log-SNR 20: about
        1e-3); x, and every `at` towards less noise, come back to rounding. See `from_move` for what
        happens at vanishing sigma.
        """
        return cls.from_move(z, x, logsnr, torch.full_like(logsnr, torch.inf))

    @classmethod
    def from_eps(cls, z: Video, eps: Video, logsnr: PerClip) -> "Denoised":
        """The prediction whose noise is eps: v = (eps - sigma z) / alpha.

        What is wrong with eps comes magnified by 1 / alpha: near pure noise x needs a threshold.
        alpha is kept at or above the dtype's rounding unit, as the divisor in `from_move` is.
        """
        alpha, sigma = alpha_sigma(logsnr)
        scale = expand(1 / alpha.clamp(min=torch.finfo(z.dtype).eps), z)
        return cls(z, eps.mul(scale).addcmul_(z, -scale * expand(sigma, z)), logsnr)

    @classmethod
    def from_move(cls, z: Video, z_s: Video, logsnr: PerClip, logsnr_s: PerClip) -> "Denoised":
        """The prediction whose `at(logsnr_s)` is z_s: the inverse of `at`, for less noise only.

        The divisor (sigma, where z_s is x) is kept at or above the dtype's rounding unit, so v
        stays finite: below it, past log-SNR 31 in float32, z and z_s cannot be told apart and `at`
        returns about z.
        """
        along_z, along_v = _turn(logsnr, logsnr_s)
        along_v = along_v.clamp(max=-torch.finfo(z.dtype).eps)
        scale = expand(1 / along_v, z)
        return cls(z, z_s.mul(scale).addcmul_(z, -scale * expand(along_z, z)), logsnr)


Denoiser = Callable[[Video, PerClip], Denoised]


def _turn(logsnr: PerClip, logsnr_s: PerClip) -> tuple[PerClip, PerClip]:
    """The coefficients of z and v in z_s: cos and -sin of the angle between the two."""
    alpha, sigma = alpha_sigma(logsnr)
    alpha_s, sigma_s = alpha_sigma(logsnr_s)
    return alpha_s * alpha + sigma_s * sigma, sigma_s * alpha - alpha_s * sigma
