"""Words that a video shows, read by RapidOCR (Apache-2.0), where it is installed."""

from collections.abc import Callable

import torch.nn.functional as F

from imagen_video.video import Frames

HEIGHT = 192
"""Frames are enlarged to this height before they are read."""


def reader() -> Callable[[Frames], str] | None:
    """Reads the last frame of a video: its words in capitals, "" for none. None without RapidOCR.
    The first call takes a second."""
    try:
        from rapidocr_onnxruntime import RapidOCR  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    engine = RapidOCR()

    def read(video: Frames) -> str:
        last = video[-1:].float()
        height, width = last.shape[-2:]
        if height < HEIGHT:
            size = (HEIGHT, round(width * HEIGHT / height))
            last = F.interpolate(last, size=size, mode="bicubic").clamp(0, 255)
        picture = last[0].flip(0).permute(1, 2, 0).round().byte().contiguous().numpy()
        found, _ = engine(picture)
        return " ".join(text.upper() for _, text, _ in found or [])

    return read
