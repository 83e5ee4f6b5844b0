"""A data set whose captions say the shade of every picture."""

import torch
from PIL import Image

from imagen_video.data import library
from imagen_video.data.clips import Crop
from imagen_video.data.library import MediaSource
from imagen_video.data.rows import Rows, of_folder
from imagen_video.video import VideoFormat, VideoWriter

FORMAT = VideoFormat(4, 8, 12, 6.0)
WHOLE = Crop(0, 0, 0, 4, 8, 12)
STILL = VideoFormat(1, 8, 12, 6.0)


def write_video(path, value: int, frames: int = 8, height: int = 16, width: int = 24):
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, height=height, width=width, fps=6.0) as writer:
        writer.write(torch.full((frames, 3, height, width), value, dtype=torch.uint8))


def write_image(path, value: int):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (24, 16), (value,) * 3).save(path)


def deadly(monkeypatch, path, end):
    """Let `end` be called in place of reading an image, as a decoder may crash or never end."""
    read = library.read_image

    def read_image(media):
        return end() if media.path == str(path) else read(media)

    monkeypatch.setattr(library, "read_image", read_image)


def source(root, bad, **options):
    return MediaSource(str(root), Rows([of_folder(root)]), seed=3, bad=bad, **options)


def shade(example) -> int:
    return round(example.video.float().mean().item())
