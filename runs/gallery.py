"""Contact sheets of the shipped cascade for docs/: what it really makes, good and bad.

    python runs/gallery.py docs [--model mini]        # about 10 minutes on two cores

Writes base.png (the first 16 evaluation prompts at base output, one a row), stages.png (every
stage of one video, enlarged to one height) and final.png (frames of finished videos).
"""

import argparse
from pathlib import Path

import torch

from imagen_video.cascade import Cascade
from imagen_video.data.stickers.evaluation import eval_prompts
from imagen_video.pictures import contact_sheet, write_png
from imagen_video.video import Frames, resize, to_float, to_uint8

COLUMNS, HEIGHT = 8, 96


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("into", type=Path)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--videos", type=int, default=2)
    options = parser.parse_args()
    cascade = Cascade.from_pretrained(options.model)
    prompts = [row["prompt"] for row in eval_prompts()]
    base = cascade(prompts[:16], until="base").frames
    write_png(options.into / "base.png", contact_sheet(list(base), columns=COLUMNS, scale=3))
    finals = []
    for i, prompt in enumerate(prompts[: options.videos]):
        sample = cascade(prompt)
        finals.append(same_height(sample.frames[0]))
        if i == 0:
            rows = [same_height(video[0]) for video in sample.stages.values()]
            write_png(options.into / "stages.png", contact_sheet(rows, columns=COLUMNS))
    write_png(options.into / "final.png", contact_sheet(finals, columns=COLUMNS))
    print("\n".join(prompts[:16]))


def same_height(video: Frames) -> Frames:
    """Eight frames of a video at the sheet's height."""
    chosen = video[torch.linspace(0, len(video) - 1, COLUMNS).round().long()]
    if chosen.shape[-2] < HEIGHT:
        scale = HEIGHT // chosen.shape[-2]
        return chosen.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    return to_uint8(resize(to_float(chosen)[None], HEIGHT, HEIGHT * 5 // 3)[0])


if __name__ == "__main__":
    main()
