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
    its grid. In time the unknown frames of a video are mixtures of the known ones around them (the
    last is repeated), those of packed images are blank (no image may condition its neighbour), and
    a fourth channel is 1 where the frame is known.
    """
    alpha, sigma = (expand(part, low) for part in alpha_sigma(logsnr))
    noised = alpha * low + sigma * noise
    if spec.kind == "ssr":
        return noised
    after = torch.cat([noised[:, 1:], noised[:, -1:]], 1)
    share = torch.arange(spec.time_factor).to(noised) / spec.time_factor
    mixed = torch.lerp(noised[:, :, None], after[:, :, None], share.view(1, 1, -1, 1, 1, 1))
    known = (share == 0).to(noised).view(1, 1, -1, 1, 1, 1).expand_as(mixed[:, :, :, :1])
    mixed = torch.where(is_video.view(-1, 1, 1, 1, 1, 1) | (known > 0), mixed, 0.0)
    return torch.cat([mixed, known], 3).flatten(1, 2)
