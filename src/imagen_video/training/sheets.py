"""Sample sheets: what a stage makes right now, as a PNG. A loss curve is no proof of a video."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from imagen_video.data.clips import Crop, Source
from imagen_video.data.mix import read_apart, surviving
from imagen_video.data.stickers.evaluation import eval_prompts
from imagen_video.diffusion.sampler import Noise, finished
from imagen_video.lowres import low_from_truth
from imagen_video.pictures import contact_sheet, write_png
from imagen_video.sampling import SampleSpec, override
from imagen_video.spec import StageSpec
from imagen_video.stage import Stage
from imagen_video.text.encoder import TextEncoder
from imagen_video.video import (
    Frames,
    VideoWriter,
    to_float,
    to_uint8,
)

ROWS, COLUMNS, STEPS, CLIPS = 8, 8, 16, 2


@dataclass(frozen=True)
class Shown:
    """What sheets show: prompts for a base, true clips with their captions for other stages."""

    prompts: tuple[str, ...] = ()
    clips: tuple[tuple[Frames, str], ...] = ()


class SheetDrawer:
    """Draws step-000123.png into a folder: prompts for the base, low / sample / truth for others;
    beside it, where PyAV is installed, step-000123.mp4 with the same.

    Always the same prompts, held-out clips and noise, so that sheets can be compared.
    """

    def __init__(
        self,
        spec: StageSpec,
        encoder: TextEncoder,
        folder: Path,
        shown: Shown,
        *,
        step: Callable[[], int],
    ):
        self.spec, self.encoder, self.folder = spec, encoder, folder
        self.shown, self.step = shown, step

    def __call__(self, stage: Stage) -> Path:
        """Draw what the stage makes now; the PNG's path."""
        with torch.inference_mode():
            rows = self._prompted(stage) if self.spec.kind == "base" else self._upsampled(stage)
        self.folder.mkdir(parents=True, exist_ok=True)
        scale = max(1, 120 // rows[0].shape[-2])
        path = self.folder / f"step-{self.step():06d}.png"
        write_png(path, contact_sheet(rows, columns=COLUMNS, scale=scale))
        with suppress(ImportError):  # PyAV, on a bare training machine
            _film(path.with_suffix(".mp4"), rows, scale=scale, fps=self.spec.output.fps)
        return path

    def _prompted(self, stage: Stage) -> list[Frames]:
        return list(to_uint8(sample(stage, self.encoder, list(self.shown.prompts), low=None)))

    def _upsampled(self, stage: Stage) -> list[Frames]:
        rows: list[Frames] = []
        for clip, caption in self.shown.clips:
            truth = to_float(clip)[None]
            low = low_from_truth(truth, self.spec)
            made = sample(stage, self.encoder, [caption], low=low)
            seen = low.repeat_interleave(self.spec.time_factor, 1)[0]
            seen = F.interpolate(seen, scale_factor=self.spec.space_factor, mode="nearest")
            rows += [to_uint8(seen), to_uint8(made)[0], clip]
        return rows


def sample(
    stage: Stage,
    encoder: TextEncoder,
    prompts: list[str],
    *,
    low: torch.Tensor | None,
    steps: int | None = None,
) -> torch.Tensor:
    """One sampling run of a stage on its own, in its own steps but at most STEPS, or in so many, as
    float video."""
    spec, noise = stage.spec, Noise(0)
    frames, (height, width) = spec.output.frames, spec.output.size
    if low is not None:
        frames = low.shape[1] * spec.time_factor
        height, width = (side * spec.space_factor for side in low.shape[-2:])
    cond = stage.conditioning(encoder(prompts), frames=frames, low=low, noise=noise)
    shape = (len(prompts), frames, 3, height, width)
    steps = min(STEPS, spec.sampler.num_steps) if steps is None else steps
    sampler = override(spec.sampler, SampleSpec(steps=steps))
    return finished(stage.sample_steps(cond, shape, noise, sampler=sampler)).cpu()


def _film(path: Path, rows: list[Frames], *, scale: int, fps: float) -> None:
    """The clips of a sheet playing one above the other; a shorter one holds its last frame."""
    frames, even = max(map(len, rows)), 2 * scale if scale % 2 else scale
    shown = [torch.cat([row, row[-1:].expand(frames - len(row), -1, -1, -1)]) for row in rows]
    film = torch.cat(shown, 2).repeat_interleave(even, 2).repeat_interleave(even, 3)
    with VideoWriter(path, height=film.shape[2], width=film.shape[3], fps=fps) as writer:
        writer.write(film)


def what_to_show(spec: StageSpec, source: Source, *, stickers: bool, workers: int) -> Shown:
    """The evaluation prompts for a base on the sticker world, captions of clips elsewhere; for
    other stages clips of a held-out source, in the size of the stage's training crops."""
    if spec.kind == "base" and stickers:
        return Shown(prompts=tuple(row["prompt"] for row in eval_prompts()[:ROWS]))
    train = spec.train
    frames, (height, width) = train.frames or spec.output.frames, train.crop or spec.output.size
    top, left = (
        (full - side) // 2 // spec.space_factor * spec.space_factor
        for full, side in zip(spec.output.size, (height, width), strict=True)
    )
    crop = Crop(0, top, left, frames, height, width)
    count = ROWS if spec.kind == "base" else CLIPS
    take = source.clip if "video" in source.kinds else source.image
    ask = partial(take, format=spec.output, crop=crop)
    with surviving(read := read_apart(ask, range(count), workers=workers)):
        clips = list(read)
    if spec.kind == "base":
        return Shown(prompts=tuple(clip.caption for clip in clips))
    # A still stands for a clip that does not move.
    return Shown(
        clips=tuple((c.video.expand(frames, -1, -1, -1), c.caption) for c in clips),
    )
