"""The one author of super-resolution conditioning, for training and for sampling (section 6)."""

import torch
import torch.nn.functional as F

from imagen_video.diffusion.schedule import CosineSchedule, alpha_sigma, expand
from imagen_video.motion import between
from imagen_video.shapes import Bool, Float, UInt8
from imagen_video.spec import StageSpec
from imagen_video.video import Frames, PerClip, Video, resize

# lambda' of training is lambda(u') on the unshifted schedule.
AUGMENTATION = CosineSchedule()


Low = Float[torch.Tensor, "b low_f c low_h low_w"]


def low_from_truth(high: Video, spec: StageSpec) -> Low:
    """What the stage before would have shown of a true video: fewer frames, or smaller ones."""
    if spec.kind == "tsr":
        return high[:, :: spec.time_factor]
    factor = spec.space_factor
    return resize(high, high.shape[-2] // factor, high.shape[-1] // factor)


def pad(
    video: Frames, spec: StageSpec
) -> tuple[UInt8[torch.Tensor, "f c padded_h padded_w"], tuple[int, int]]:
    """Repeat the edges up to the next size that the stage's network takes; and the height and width
    to which its answer is cropped."""
    step = max(1, spec.unet.multiple // spec.space_factor)
    height, width = video.shape[-2:]
    padding = (0, -width % step, 0, -height % step)
    padded = F.pad(video.float(), padding, mode="replicate").to(torch.uint8)
    return padded, (height * spec.space_factor, width * spec.space_factor)


def level_at(u: PerClip, spec: StageSpec) -> PerClip:
    """lambda' of training for u in [0, 1): u' = u `aug_max` through the cosine schedule."""
    return AUGMENTATION(u * spec.aug_max)


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
    its grid. In time there are seven channels: the mixture of the known frames around along what
    moved (`motion.between`; after the last known frame that frame), how far the two differ there,
    and 1 where the frame is known. Unknown frames of packed images are blank: no image may
    condition its neighbour.
    """
    alpha, sigma = (expand(part, low) for part in alpha_sigma(logsnr))
    noised = alpha * low + sigma * noise
    if spec.kind == "ssr":
        return noised
    clips = len(low)
    before = noised.flatten(0, 1)
    after = torch.cat([noised[:, 1:], noised[:, -1:]], 1).flatten(0, 1)
    shown = [torch.cat([before, torch.zeros_like(before), torch.ones_like(before[:, :1])], 1)]
    video = is_video.repeat_interleave(low.shape[1]).view(-1, 1, 1, 1)
    for step in range(1, spec.time_factor):
        mixed, change = between(before, after, step / spec.time_factor)
        unknown = torch.cat([mixed, change, torch.zeros_like(mixed[:, :1])], 1)
        shown.append(torch.where(video, unknown, 0.0))
    return torch.stack(shown, 1).flatten(0, 1).unflatten(0, (clips, -1))
