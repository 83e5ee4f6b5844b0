"""Files of every kind of coding, of frames that tell their number."""

import io

import av
import torch
from PIL import Image


def counted(frames: int, height: int = 48, width: int = 80) -> torch.Tensor:
    """Frame i is grey of value 2 i + 20: what is shown tells when it is from."""
    values = torch.arange(frames, dtype=torch.uint8) * 2 + 20
    return values.view(-1, 1, 1, 1).repeat(1, 3, height, width)


def coded(
    container: str, codec: str, pixels: str, frames, options: dict[str, str] | None = None
) -> bytes:
    """A file at 24 fps, right of column 40 transparent where `pixels` can say so."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as written:
        stream = written.add_stream(codec, rate=24)
        stream.height, stream.width = frames.shape[2:] if len(frames) else (48, 80)
        stream.pix_fmt = pixels
        stream.options = options or {}
        for picture in frames:
            alpha = torch.full_like(picture[:1], 255)
            alpha[:, :, 40:] = 0
            rgba = torch.cat([picture, alpha]).permute(1, 2, 0).contiguous().numpy()
            written.mux(stream.encode(av.VideoFrame.from_ndarray(rgba, format="rgba")))
        if not len(frames):
            written.start_encoding()
        written.mux(stream.encode(None))
    return file.getvalue()


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (80, 48), "red").save(file, "png")
    return file.getvalue()
