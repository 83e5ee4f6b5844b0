"""What a network knows about a noisy video: x, eps and v at once (paper section 4.2)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from imagen_video.diffusion.schedule import alpha_sigma, expand
from imagen_video.video import PerClip, Video


@dataclass(frozen=True)
class Denoised:
    """A noisy video z, what is `said` about it, and its log-SNR.

    What is said is the velocity v = alpha eps - sigma x, or the video at less noise, `said_at`
    (x itself where that is infinite). Everything else is computed when asked for: the last stage's
    clip has 377 million elements, and holding all of z, v, x and eps would be the memory of the
    whole run.
    """

    z: Video
    said: Video
    logsnr: PerClip
    said_at: PerClip | None = None

    @property
    def v(self) -> Video:
        """The velocity; of what is said in its place, (said - cos z) / sin of the angle between.

        It carries the rounding of z and of what is said magnified by 1 / sin (of x, 1 / sigma:
        float32 at log-SNR 20, about 1e-3); x, and every `at` towards less noise, do not.
        """
        if self.said_at is None:
            return self.said
        along_z, along_v = self._to_said()
        scale = expand(1 / along_v, self.z)
        return self.said.mul(scale).addcmul_(self.z, -scale * expand(along_z, self.z))

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

        It lies in the plane of z and what is said, so it needs two coefficients and allocates
        nothing but the result.
        """
        along_z, along_said = self.towards(logsnr)
        return self.said.mul(expand(along_said, self.z)).addcmul_(self.z, expand(along_z, self.z))

    def turned(self, logsnr: PerClip) -> Video:
        """`at` in the memory of what is said, then lost: of the last stage's clip, 1.5 GB."""
        along_z, along_said = self.towards(logsnr)
        return self.said.mul_(expand(along_said, self.z)).addcmul_(self.z, expand(along_z, self.z))

    def onto(self, z: Video, logsnr: PerClip) -> None:
        """`turned`, to the last bit, into `z`, which holds this z; what is said is lost too."""
        along_z, along_said = self.towards(logsnr)
        said = self.said.mul_(expand(along_said, z))
        torch.addcmul(said, z, expand(along_z, z), out=z)

    def towards(self, logsnr: PerClip) -> tuple[PerClip, PerClip]:
        """The coefficients of z and of what is said in this prediction at another noise level."""
        along_z, along_v = _turn(self.logsnr, logsnr)
        if self.said_at is None:
            return along_z, along_v
        z_said, v_said = self._to_said()
        share = along_v / v_said
        return along_z - share * z_said, share

    def _to_said(self) -> tuple[PerClip, PerClip]:
        """Cosine and minus sine of the angle from z to what is said at less noise; the latter is
        kept away from 0 by the dtype's rounding unit, so that v stays finite."""
        assert self.said_at is not None
        along_z, along_v = _turn(self.logsnr, self.said_at)
        return along_z, along_v.clamp(max=-torch.finfo(self.z.dtype).eps)

    @classmethod
    def from_x(cls, z: Video, x: Video, logsnr: PerClip) -> "Denoised":
        """The prediction whose clean video is x, v = (alpha z - x) / sigma. A move may write over x
        (`turned`)."""
        return cls.from_move(z, x, logsnr, torch.full_like(logsnr, torch.inf))

    @classmethod
    def from_eps(cls, z: Video, eps: Video, logsnr: PerClip) -> "Denoised":
        """The prediction whose noise is eps: v = (eps - sigma z) / alpha.

        What is wrong with eps comes magnified by 1 / alpha: near pure noise x needs a threshold.
        alpha is kept at or above the dtype's rounding unit, as the divisor in `v` is.
        """
        alpha, sigma = alpha_sigma(logsnr)
        scale = expand(1 / alpha.clamp(min=torch.finfo(z.dtype).eps), z)
        return cls(z, eps.mul(scale).addcmul_(z, -scale * expand(sigma, z)), logsnr)

    @classmethod
    def from_move(cls, z: Video, z_s: Video, logsnr: PerClip, logsnr_s: PerClip) -> "Denoised":
        """The prediction whose `at(logsnr_s)` is z_s: the inverse of `at`, for less noise only.

        Where the sine of the angle between them is below the dtype's rounding unit (past log-SNR 31
        in float32, where z_s is x), they cannot be told apart and `at` returns about z.
        """
        return cls(z, z_s, logsnr, logsnr_s)


Denoiser = Callable[[Video, PerClip], Denoised]


def _turn(logsnr: PerClip, logsnr_s: PerClip) -> tuple[PerClip, PerClip]:
    """The coefficients of z and v in z_s: cos and -sin of the angle between the two."""
    alpha, sigma = alpha_sigma(logsnr)
    alpha_s, sigma_s = alpha_sigma(logsnr_s)
    return alpha_s * alpha + sigma_s * sigma, sigma_s * alpha - alpha_s * sigma
