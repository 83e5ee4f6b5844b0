"""How fast one core draws training clips of the sticker world, caches warm.

python bench/stickers.py            # half a minute; wanted: 150 clips of 16x24x40 a second
"""

from functools import partial

import torch
from common import machine, stopwatch, table

from imagen_video.data.clips import Crop
from imagen_video.data.stickers.source import StickerSource
from imagen_video.presets import FORMATS
from imagen_video.video import VideoFormat

BASE, SSR2, LAST = FORMATS[0], FORMATS[3], FORMATS[-1]
SIGHTS = (
    (BASE, Crop(0, 0, 0, BASE.frames, *BASE.size), 200),
    (SSR2, Crop(0, 0, 0, SSR2.frames, *SSR2.size), 20),
    (LAST, Crop(60, 256, 512, 8, 256, 256), 20),
)
"""What training asks for: a format, a box of it, and how many clips to draw."""


def main() -> None:
    torch.set_num_threads(1)
    source, rows = StickerSource(0), []
    for format, crop, clips in SIGHTS:
        draw = partial(draw_clips, source, format, crop, clips)
        draw()  # the first time fills the cache of sprites
        each = stopwatch(draw) / clips
        size = f"{crop.frames}x{crop.height}x{crop.width} of {format}"
        rows.append((size, f"{1 / each:.0f}", f"{1000 * each:.1f}"))
    print(machine(), table(("clip", "a second", "ms"), rows), sep="\n\n")


def draw_clips(source: StickerSource, format: VideoFormat, crop: Crop, clips: int) -> None:
    for index in range(clips):
        source.clip(index, format, crop)


if __name__ == "__main__":
    main()
