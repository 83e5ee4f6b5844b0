"""Bounds on what is taken in, and the check of an uploaded video: a stranger's file."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagen_video.pyav import opened
from imagen_video.spec import StageSpec
from imagen_video.video import video_info
from imagen_video.web.offers import size_of

EXAMPLES = "mp4, webm or mkv"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds on what is taken in and kept. `pixels` counts those of an upscaled video, over all its
    frames; `disk_share` is how much of the disk finished videos may fill."""

    queue: int = 100
    body_bytes: int = 100 * 2**20
    upload_seconds: float = 60.0
    pixels: int = 2**29
    keep_days: float = 30.0
    disk_share: float = 0.5


def check_upload(path: Path, stages: Sequence[StageSpec], limits: Limits) -> dict[str, Any]:
    """Its `frames`, and `size` and `seconds` of what `stages` will make of them; ValueError for a
    file that they cannot upscale."""
    space = math.prod(stage.space_factor for stage in stages)
    time = math.prod(stage.time_factor for stage in stages)
    try:
        with opened(path, contained=True) as (_, stream):
            said = stream.codec_context.height, stream.codec_context.width
    except ValueError as error:
        raise ValueError(f"the upload is no video in a container such as {EXAMPLES}") from error
    _check_pixels(said, space, 1, limits)  # before the first frame is decoded
    try:
        info = video_info(path)
    except ValueError as error:
        raise ValueError("the upload is no video that can be read") from error
    seconds = info.frames / info.fps
    if seconds > limits.upload_seconds:
        raise ValueError(
            f"an uploaded video may last {limits.upload_seconds:g} s, this one {seconds:.1f} s"
        )
    _check_pixels((info.height, info.width), space, info.frames * time, limits)
    if info.height * space % 2 or info.width * space % 2:
        raise ValueError(
            f"{info.width}x{info.height} stays odd, and an mp4 needs even sides: name a stage that "
            "enlarges"
        )
    size = size_of(info.height * space, info.width * space)
    return {"frames": info.frames, "size": size, "seconds": f"{seconds:.4g}"}


def _check_pixels(size: tuple[int, int], space: int, frames: int, limits: Limits) -> None:
    height, width = (side * space for side in size)
    if height * width * frames > limits.pixels:
        raise ValueError(
            f"{frames} frames of {width}x{height} would be made, more than {limits.pixels} pixels: "
            "shorten or shrink the video, or name fewer stages"
        )
