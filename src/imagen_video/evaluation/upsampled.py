"""An upsampling stage alone: what it starts from, and how near to the truth it comes."""

import torch

from imagen_video.lowres import low_from_truth
from imagen_video.metrics.measures import blend, psnr
from imagen_video.shapes import UInt8
from imagen_video.spec import StageSpec
from imagen_video.video import Frames, resize, to_float, to_uint8

Small = UInt8[torch.Tensor, "low_f c low_h low_w"]


def own_psnr(video: Frames, truth: UInt8[torch.Tensor, "_f _c _h _w"], spec: StageSpec) -> float:
    """PSNR in dB of what a stage made: of a temporal one without the frames that it was given."""
    if spec.kind == "tsr":
        new = torch.arange(len(video)) % spec.time_factor > 0
        video, truth = video[new], truth[new]
    return psnr(video, truth)


def made_small(video: Frames, spec: StageSpec) -> Small:
    """What a stage starts from, of the video that it is to make."""
    return to_uint8(low_from_truth(to_float(video)[None], spec))[0]


def interpolated(low: Small, spec: StageSpec) -> Frames:
    """Upsampling without a model: known frames blended in time, bicubic in space."""
    video = blend(low, spec.time_factor)
    if spec.space_factor == 1:
        return video
    height, width = (side * spec.space_factor for side in low.shape[-2:])
    parts = [
        to_uint8(resize(to_float(part)[None], height, width, mode="bicubic"))[0]
        for part in video.split(16)
    ]
    return torch.cat(parts)
