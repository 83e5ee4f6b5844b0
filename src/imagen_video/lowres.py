"""The one author of super-resolution conditioning, for training and for sampling (section 6)."""

import torch

from imagen_video.diffusion.schedule import CosineSchedule, alpha_sigma, expand
from imagen_video.shapes import Bool, Float
from imagen_video.spec import StageSpec
from imagen_video.video import PerClip, Video, resize

# lambda' of training is lambda(u') on the unshifted schedule.
AUGMENTATION = CosineSchedule()


def low_from_truth(high: Video, spec: StageSpec) -> Float[torch.Tensor, "b low_f c low_h low_w"]:
    """What the stage before would have shown of a true video: fewer frames, or smaller ones."""
    if spec.kind == "tsr":
        return high[:, :: spec.time_factor]
    factor = spec.space_factor
    return resize(high, high.shape[-2] // factor, high.shape[-1] // factor)


def random_levels(clips: int, spec: StageSpec, generator: torch.Generator) -> PerClip:
    """One lambda' a clip: u' uniform in (0, `aug_max`) through the cosine schedule."""
    drawn = torch.rand(clips, generator=generator, device=generator.device)
    return AUGMENTATION(drawn * spec.aug_max)


def prepare(
    low: Video,
    noise: Video,
    logsnr: PerClip,
    *,
    spec: StageSpec,
    is_video: Bool[torch.Tensor, " b"],
) -> Float[torch.Tensor, "b high_f low_c h w"]:
    """Noise the previous stage's video, so that this one forgives its artefacts, and put it on
    the frames of this one.

    Noise comes before upsampling. In space the video keeps its own size: the network brings it to
    its grid. In time a video repeats each frame, packed images leave the unknown frames blank (no
    image may condition its neighbour), and a fourth channel is 1 where the frame is known.
    """
    alpha, sigma = (expand(part, low) for part in alpha_sigma(logsnr))
    noised = alpha * low + sigma * noise
    if spec.kind == "ssr":
        return noised
    known = torch.ones_like(noised[:, :, :1])
    blank = torch.zeros_like(noised)
    filled = torch.where(is_video[:, None, None, None, None], noised, blank)
    given = torch.cat([noised, known], 2)
    between = torch.cat([filled, torch.zeros_like(known)], 2)
    frames = torch.stack([given] + [between] * (spec.time_factor - 1), 2)
    return frames.flatten(1, 2)
