"""A trainer that a test can run to its end."""

from dataclasses import replace
from pathlib import Path

import torch

from imagen_video import presets
from imagen_video.data.clips import Crop, Example, Position
from imagen_video.data.mix import Mix
from imagen_video.stage import Stage
from imagen_video.training.ahead import Data
from imagen_video.training.run import RunSpec, with_steps
from imagen_video.training.trainer import Trainer
from imagen_video.video import VideoFormat


class Still:
    """One moving square: a source that a small network can learn by heart."""

    kinds = frozenset({"video", "image"})

    def clip(self, index: int, format: VideoFormat, crop: Crop) -> Example:
        frames = torch.full((format.frames, 3, format.height, format.width), 60, dtype=torch.uint8)
        for i in range(format.frames):
            left = i * format.width // (2 * format.frames)
            frames[i, 0, format.height // 4 :, left : left + format.width // 3] = 220
        box = frames[crop.frame : crop.frame + crop.frames]
        box = box[:, :, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
        return Example(box, "a square")

    def image(self, index: int, format: VideoFormat, crop: Crop) -> Example:
        still = replace(crop, frame=0, frames=1)
        return self.clip(index, replace(format, frames=1), still)

    def position(self, clips: int, stills: int) -> dict[str, Position]:
        return {}


def tiny_trainer(folder: Path, tiny, steps: int = 12, **options) -> Trainer:
    spec = with_steps(presets.tiny().stages[0], steps)
    torch.manual_seed(0)
    mix = Mix(Still(), spec, seed=0, steps=steps)
    return Trainer(Stage(spec), Data(mix, tiny.encoder), folder, RunSpec(workers=0, **options))
