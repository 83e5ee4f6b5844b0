"""Contact sheets of the shipped cascade for docs/: what it really makes, good and bad.

    python runs/gallery.py docs [--model mini]        # about 7 minutes on two cores
    python runs/gallery.py docs --finished out/prompts    # made by evaluate_prompts.py --final

Writes base.png (the first 16 evaluation prompts at base output, one a row), stages.png (every
stage of one video, brought to one height) and sizes.png (one frame of it at 24x40, 48x80, 192x320
and 768x1280, all shown at half of the last); or final.png, four frames of every finished video.
"""

import argparse
from pathlib import Path

import torch

from imagen_video.cascade import Cascade
from imagen_video.data.stickers.evaluation import eval_prompts
from imagen_video.memory import keep_freed_memory
from imagen_video.pictures import contact_sheet, write_png
from imagen_video.video import Frames, read_video, resize, to_float, to_uint8

COLUMNS, FINAL, HEIGHT = 8, 4, 96
SIZES = ("base", "ssr1", "tsr3", "ssr3")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("into", type=Path)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--finished", type=Path, nargs="+", help="folders of 00.mp4, 01.mp4, ...")
    options = parser.parse_args()
    if options.finished:
        paths = [path for folder in options.finished for path in sorted(folder.glob("*.mp4"))]
        finals = [some(read_video(path).frames, FINAL, HEIGHT) for path in paths]
        pairs = [torch.cat(finals[i : i + 2]) for i in range(0, len(finals), 2)]
        write_png(options.into / "final.png", contact_sheet(pairs, columns=2 * FINAL))
        return
    keep_freed_memory()
    cascade = Cascade.from_pretrained(options.model)
    prompts = [row["prompt"] for row in eval_prompts()]
    base = cascade(prompts[:16], until="base").frames
    write_png(options.into / "base.png", contact_sheet(list(base), columns=COLUMNS, scale=3))
    sample = cascade(prompts[0])
    rows = [some(video[0], COLUMNS, HEIGHT) for video in sample.stages.values()]
    write_png(options.into / "stages.png", contact_sheet(rows, columns=COLUMNS))
    middle = [some(sample.stages[name][0], 3, 4 * HEIGHT)[1] for name in SIZES]
    sheet = contact_sheet(list(torch.stack(middle).split(2)), columns=2)
    write_png(options.into / "sizes.png", sheet)
    print("\n".join(prompts[:16]))


def some(video: Frames, count: int, height: int) -> Frames:
    """Frames from the first to the last, enlarged in blocks or averaged to a height."""
    chosen = video[torch.linspace(0, len(video) - 1, count).round().long()]
    if chosen.shape[-2] < height:
        scale = height // chosen.shape[-2]
        return chosen.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    return to_uint8(resize(to_float(chosen)[None], height, height * 5 // 3)[0])


if __name__ == "__main__":
    main()
