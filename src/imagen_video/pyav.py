"""What PyAV must be told so that colours, orientation and errors come out right."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imagen_video.shapes import UInt8

# Codes of ffmpeg's tables: colour matrices (BT.709 also names primaries and transfer), ranges.
BT709, UNSPECIFIED, BT601 = 1, 2, 5
LIMITED, FULL = 1, 2  # 16-235 as video has it, 0-255 as RGB has it


def reformat(frame: Any, reformatter: Any, **formats: Any) -> Any:
    """`reformatter.reformat` with exact rounding and full chroma.

    swscale's defaults lose 16 dB on a round trip through yuv420p (35 instead of 51).
    """
    from av.video.reformatter import Interpolation

    exact = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
    return reformatter.reformat(frame, interpolation=int(exact), **formats)


def upright_rgb(frame: Any, reformatter: Any) -> UInt8[Tensor, "3 h w"]:
    """A decoded frame of any pixel format as RGB, turned as the file says; alpha is dropped."""
    matrix = frame.colorspace
    if matrix == UNSPECIFIED:  # untagged files: the size tells, as players have it
        matrix = BT709 if frame.height >= 720 else BT601
    rgb = reformat(frame, reformatter, format="rgb24", src_colorspace=matrix, dst_color_range=FULL)
    pixels = np.rot90(rgb.to_ndarray(), round(frame.rotation / 90))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).contiguous()


@contextmanager
def opened(path: str | Path) -> Iterator[tuple[Any, Any]]:
    """A file's container and video stream, closed at the end; whatever fails is a ValueError."""
    import av
    from av.error import FFmpegError

    if not Path(path).is_file():
        raise ValueError(f"there is no file {str(path)!r}")
    # Tags in another encoding must not hide the video. From 19 on PyAV lets them pass by itself.
    lenient: Any = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
    try:
        with av.open(str(path), **lenient) as container:
            if not container.streams.video:
                raise ValueError(f"{str(path)!r} holds no video")
            yield container, container.streams.video[0]
    except FFmpegError as error:
        raise ValueError(f"cannot read {str(path)!r} as a video: {error.strerror}") from error
