"""What the frame filter says of harmless videos and pictures: there is no explicit test material.

    python runs/frame_filter.py [FILES...] [--made 4]    # 2 minutes of a core, one more a video

Sticker clips at 192x320, of both splits; videos that the shipped cascade makes of the first
evaluation prompts, at SSR-2; and any mp4 or picture that is named. Expected: nothing over the
shipped bound of 0.8.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image
from tyro.conf import Positional

from imagen_video.cascade import Cascade
from imagen_video.data.stickers import StickerWorld, render
from imagen_video.data.stickers.evaluation import eval_prompts
from imagen_video.memory import keep_freed_memory
from imagen_video.safety.frames import LOOKED_AT, explicitness, spaced
from imagen_video.sampling import SampleSpec
from imagen_video.video import Frames, VideoFormat, read_video

CLIPS, SEED = 64, 11
FORMAT = VideoFormat(LOOKED_AT, 192, 320, LOOKED_AT / 5.33)


@dataclass
class Options:
    """Score harmless videos and pictures."""

    files: Positional[tuple[Path, ...]] = ()
    made: int = 4
    """Videos of the shipped cascade."""


def main(options: Options) -> None:
    for split in ("train", "test"):
        world, start = StickerWorld(SEED, split=split), time.perf_counter()
        clips = [render(world.clip(i), FORMAT) for i in range(CLIPS)]
        drawn = time.perf_counter()
        scores = [max(explicitness(clip)) for clip in clips]
        each = (time.perf_counter() - drawn) / CLIPS
        say(f"stickers, {split}", scores)
        print(f"  drawn in {drawn - start:.0f} s, scored in {1000 * each:.0f} ms a clip")
    if options.made:
        say("mini at SSR-2", [max(explicitness(spaced(video))) for video in made(options.made)])
    for path in options.files:
        frames = read_video(path, max_frames=200).frames if path.suffix == ".mp4" else read(path)
        print(f"{path.name}: {max(explicitness(spaced(frames))):.3f}")


def made(count: int) -> list[Frames]:
    keep_freed_memory()
    prompts = [row["prompt"] for row in eval_prompts()[:count]]
    steps = Cascade.from_pretrained("mini").stream(prompts, SampleSpec(until="ssr2"))
    return [p.video for p in steps if p.stage == "ssr2" and p.video is not None]


def read(path: Path) -> Frames:
    with Image.open(path) as picture:
        return torch.tensor(np.asarray(picture.convert("RGB"))).movedim(-1, 0)[None]


def say(name: str, scores: list[float]) -> None:
    values = torch.tensor(scores)
    over = int((values > 0.5).sum())
    print(f"{name}: {len(scores)} clips, median {values.median():.3f}, most {values.max():.3f}")
    print(f"  over 0.5: {over}")


if __name__ == "__main__":
    main(tyro.cli(Options))
