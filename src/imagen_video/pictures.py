"""Videos as pictures to look at: PNG files and contact sheets."""

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from imagen_video.files import replacing
from imagen_video.shapes import UInt8


def write_png(path: str | Path, image: UInt8[Tensor, "3 h w"]) -> None:
    """Write an RGB image without any image library."""
    pixels = image.permute(1, 2, 0).contiguous().cpu().numpy()
    height, width, _ = pixels.shape
    lines = pixels.reshape(height, -1)
    lines[1:] = np.diff(lines, axis=0)  # PNG's filter 2: every line as its difference to the last
    lines = np.insert(lines, 0, 2, axis=1)
    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for tag, data in (
            (b"IHDR", header),
            (b"IDAT", zlib.compress(lines.tobytes())),
            (b"IEND", b""),
        ):
            checksum = zlib.crc32(tag + data)
            file.write(struct.pack(">I", len(data)) + tag + data + struct.pack(">I", checksum))


def contact_sheet(
    rows: Sequence[UInt8[Tensor, "_ 3 _ _"]], *, columns: int, scale: int = 1
) -> UInt8[Tensor, "3 sheet_h sheet_w"]:
    """One row a clip, `columns` evenly spaced frames a row, thin gaps, each pixel `scale` wide.

    Clips may differ in size and length; one shorter than `columns` leaves cells empty.
    """
    gap, grey = 2, 48
    strips = []
    for clip in rows:
        count = min(columns, len(clip))
        shown = clip[torch.linspace(0, len(clip) - 1, count).round().long()].cpu()
        shown = shown.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
        cells = F.pad(shown, (0, gap, 0, gap), value=grey)
        strips.append(torch.cat(cells.unbind(), dim=2))
    width = max(strip.shape[2] for strip in strips)
    strips = [F.pad(strip, (0, width - strip.shape[2]), value=grey) for strip in strips]
    return F.pad(torch.cat(strips, dim=1), (gap, 0, gap, 0), value=grey)
