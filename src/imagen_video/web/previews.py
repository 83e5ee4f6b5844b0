"""Pictures of videos for a page: small, animated, encoded."""

from io import BytesIO

import torch
from torch import Tensor

from imagen_video.pictures import contact_sheet
from imagen_video.shapes import UInt8
from imagen_video.video import Frames, resize, to_float, to_uint8

# What a preview may measure: pixels of its longer side, frames.
SIDE, FRAMES = 320, 16


def small(frames: Frames) -> UInt8[Tensor, "_f c _h _w"]:
    """At most FRAMES evenly spaced frames, shrunk to at most SIDE pixels; never enlarged."""
    places = torch.linspace(0, len(frames) - 1, min(FRAMES, len(frames))).round().long()
    height, width = frames.shape[-2:]
    ratio = min(1.0, SIDE / max(height, width))
    size = max(1, round(height * ratio)), max(1, round(width * ratio))
    return to_uint8(resize(to_float(frames[places])[None], *size)[0])


def animated(frames: Frames, *, seconds: float) -> bytes:
    """An endless WebP of `small` frames that shows `seconds`."""
    first, *rest = [_picture(frame) for frame in small(frames)]
    file = BytesIO()
    pause = max(20, round(1000 * seconds / (1 + len(rest))))
    first.save(
        file,
        "WEBP",
        save_all=True,
        append_images=rest,
        duration=pause,
        loop=0,
        quality=70,
        method=0,
    )
    return file.getvalue()


def thumbnail(frames: Frames) -> bytes:
    """The middle frame as WebP."""
    return _webp(small(frames[len(frames) // 2][None])[0])


def spritesheet(frames: Frames) -> bytes:
    """Frames side by side, four a row, as WebP."""
    shown = small(frames)
    return _webp(contact_sheet(list(shown.split(4)), columns=4))


def _webp(image: UInt8[Tensor, "3 h w"]) -> bytes:
    file = BytesIO()
    _picture(image).save(file, "WEBP", quality=80)
    return file.getvalue()


def _picture(image: UInt8[Tensor, "3 h w"]):
    from PIL import Image

    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
