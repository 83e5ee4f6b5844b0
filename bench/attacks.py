"""What videos go through on their way: compression, resizing, cropping, and worse."""

import math
import random
from collections.abc import Iterator
from pathlib import Path

import av
import torch
import torch.nn.functional as F

from imagen_video.video import Frames, read_video, resize, to_float, to_uint8


def coded(frames: Frames, folder: Path, crf: int = 28) -> Frames:
    """Through libx264, preset medium."""
    path, (height, width) = folder / "coded.mp4", frames.shape[-2:]
    with av.open(str(path), "w") as container:
        options = {"crf": str(crf), "preset": "medium"}
        stream = container.add_stream("libx264", rate=24, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame.permute(1, 2, 0).contiguous().numpy())
            container.mux(stream.encode(picture.reformat(format="yuv420p")))
        container.mux(stream.encode(None))
    return read_video(path).frames


def half(frames: Frames) -> Frames:
    """Half the height and width, antialiased."""
    height, width = (side // 4 * 2 for side in frames.shape[-2:])
    return resized(frames, height, width)


def resized(frames: Frames, height: int, width: int) -> Frames:
    return to_uint8(resize(to_float(frames)[None], height, width)[0])


def turned(frames: Frames, degrees: float) -> Frames:
    """About the centre, within the frame."""
    angle = math.radians(degrees)
    height, width = frames.shape[-2:]
    turn = torch.tensor(
        [
            [math.cos(angle), -math.sin(angle) * height / width, 0],
            [math.sin(angle) * width / height, math.cos(angle), 0],
        ]
    )
    grid = F.affine_grid(turn[None], [1, 3, height, width], align_corners=False)
    parts = [F.grid_sample(frame[None].float(), grid, align_corners=False) for frame in frames]
    return torch.cat(parts).round().to(torch.uint8)


def cropped(frames: Frames, rng: random.Random) -> Frames:
    """A tenth of the height and of the width cut off, at any place."""
    sides = frames.shape[-2:]
    height, width = (math.floor(0.9 * side) // 2 * 2 for side in sides)
    top, left = rng.randint(0, sides[0] - height), rng.randint(0, sides[1] - width)
    return frames[:, :, top : top + height, left : left + width]


def attacked(frames: Frames, folder: Path, seed: int) -> Iterator[tuple[str, Frames]]:
    cut = cropped(frames, random.Random(seed))
    yield "as written", frames
    yield "crf 28", coded(frames, folder)
    yield "half", half(frames)
    yield "crop", cut
    yield "all three", coded(half(cut), folder)


def ruined(frames: Frames, folder: Path) -> Iterator[tuple[str, Frames]]:
    """Where it ends, on large frames."""
    height, width = frames.shape[-2:]
    yield "crf 34", coded(frames, folder, 34)
    yield "crf 40", coded(frames, folder, 40)
    yield "a quarter of the size", resized(frames, height // 4, width // 4)
    yield "a quarter of the size, crf 28", coded(resized(frames, height // 4, width // 4), folder)
    yield "a quarter of the area, cut out", frames[:, :, : height // 2, : width // 2]
    yield "a sixteenth of the area, cut out", frames[:, :, : height // 4, : width // 4]
    yield "stretched by 1 %", resized(frames, height, round(width * 1.01))
    yield "stretched by 5 %", resized(frames, height, round(width * 1.05))
    yield "turned by 0.5 degrees", turned(frames, 0.5)
    yield "turned by 2 degrees", turned(frames, 2)
    yield "mirrored", frames.flip(-1)
    noise = torch.randn(frames.shape, generator=torch.Generator().manual_seed(0))
    yield "noise of 8 levels", (frames + 8 * noise).round().clamp(0, 255).to(torch.uint8)
