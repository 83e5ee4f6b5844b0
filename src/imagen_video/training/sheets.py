"""Sample sheets: what a stage makes right now, as a PNG. A loss curve is no proof of a video."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F

from imagen_video.data.clips import Crop
from imagen_video.data.stickers import StickerWorld, render
from imagen_video.data.stickers.evaluation import eval_prompts
from imagen_video.diffusion.sampler import Noise
from imagen_video.lowres import low_from_truth
from imagen_video.spec import StageSpec
from imagen_video.stage import Stage
from imagen_video.text.encoder import TextEncoder
from imagen_video.video import Frames, contact_sheet, to_float, to_uint8, write_png

ROWS, COLUMNS, STEPS = 8, 8, 16


class SheetDrawer:
    """Draws step-000123.png into a folder: prompts for the base, low / sample / truth for others.

    Always the same prompts, held-out clips and noise, so that sheets can be compared.
    """

    def __init__(
        self, spec: StageSpec, encoder: TextEncoder, folder: Path, *, step: Callable[[], int]
    ):
        self.spec, self.encoder, self.folder, self.step = spec, encoder, folder, step

    def __call__(self, stage: Stage) -> None:
        stage.unet.to(torch.bfloat16)
        with torch.inference_mode():
            rows = self._prompted(stage) if self.spec.kind == "base" else self._upsampled(stage)
        self.folder.mkdir(parents=True, exist_ok=True)
        scale = max(1, 120 // rows[0].shape[-2])
        sheet = contact_sheet(rows, columns=COLUMNS, scale=scale)
        write_png(self.folder / f"step-{self.step():06d}.png", sheet)

    def _prompted(self, stage: Stage) -> list[Frames]:
        prompts = [row["prompt"] for row in eval_prompts()[:ROWS]]
        return list(to_uint8(sample(stage, self.encoder, prompts, low=None)))

    def _upsampled(self, stage: Stage) -> list[Frames]:
        rows: list[Frames] = []
        for clip, caption in held_out(self.spec):
            truth = to_float(clip)[None]
            low = low_from_truth(truth, self.spec)
            made = sample(stage, self.encoder, [caption], low=low)
            seen = low.repeat_interleave(self.spec.time_factor, 1)[0]
            seen = F.interpolate(seen, scale_factor=self.spec.space_factor, mode="nearest")
            rows += [to_uint8(seen), to_uint8(made)[0], clip]
        return rows


def sample(
    stage: Stage, encoder: TextEncoder, prompts: list[str], *, low: torch.Tensor | None
) -> torch.Tensor:
    """One sampling run of a stage on its own, as float video."""
    spec, noise = stage.spec, Noise(0)
    frames, (height, width) = spec.output.frames, spec.output.size
    if low is not None:
        frames = low.shape[1] * spec.time_factor
        height, width = (side * spec.space_factor for side in low.shape[-2:])
    cond = stage.conditioning(encoder(prompts), frames=frames, low=low, noise=noise)
    shape = (len(prompts), frames, 3, height, width)
    sampler = replace(spec.sampler, num_steps=min(STEPS, spec.sampler.num_steps))
    last = None
    for state in stage.sample_steps(cond, shape, noise, sampler=sampler):
        last = state
    assert last is not None
    return last.x


def held_out(spec: StageSpec, *, count: int = 2) -> list[tuple[Frames, str]]:
    """True clips that training never draws, in the size of the stage's training crops."""
    world, train = StickerWorld(1, split="test"), spec.train
    frames, (height, width) = train.frames or spec.output.frames, train.crop or spec.output.size
    top, left = (
        (full - side) // 2 // spec.space_factor * spec.space_factor
        for full, side in zip(spec.output.size, (height, width), strict=True)
    )
    crop = Crop(0, top, left, frames, height, width)
    scenes = [world.clip(i) for i in range(count)]
    return [(render(scene, spec.output, crop=crop), scene.caption) for scene in scenes]
