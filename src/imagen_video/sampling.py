"""One stage of one call: what was asked for, what comes back step by step, how it is saved."""

import json
import math
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from imagen_video.diffusion.guidance import guidance_weights
from imagen_video.diffusion.sampler import Noise, SamplerState
from imagen_video.files import replacing
from imagen_video.lowres import pad
from imagen_video.memory import return_freed_memory
from imagen_video.shapes import UInt8
from imagen_video.spec import SamplerSpec, StageSpec
from imagen_video.stage import Stage, sampling_schedule
from imagen_video.text.encoder import TextEmbedding
from imagen_video.unet.inputs import Conditioning
from imagen_video.video import Frames, VideoWriter, to_float, to_uint8

# Frames turned to 8 bits at a time: a copy of the last stage's whole clip would be 1.5 GB.
CHUNK = 4
# Values of a video sampled at once by `run_in_parts`, more than a 128x768x1280 clip has: a float32
# tensor of this size is 2 GiB, which a run of several steps holds once.
PART = 2**29

Writer = Callable[..., AbstractContextManager[VideoWriter]]
"""What makes a file of frames: VideoWriter's arguments."""


@dataclass
class Progress:
    """One step of one stage for one prompt; the last of a stage carries its finished `video`.

    A stage that works in windows of frames counts a step a window. `preview()` is the current
    guess (of the window's frames), to be asked for before the next Progress.
    """

    prompt: int
    stage: str
    step: int
    num_steps: int
    fps: float
    state: SamplerState = field(repr=False)
    video: Frames | None = field(default=None, repr=False)

    def preview(self) -> Frames:
        return _frames_of(self.state)


@dataclass(frozen=True)
class Sample:
    """Finished videos: `.frames` of the last stage, `.stages` of every stage, by name."""

    frames: UInt8[torch.Tensor, "b f c h w"]
    fps: float
    stages: Mapping[str, UInt8[torch.Tensor, "b _f _c _h _w"]]
    metadata: tuple[dict[str, Any], ...]

    def save(self, path: str | Path, *, index: int = 0, writer: Writer = VideoWriter) -> None:
        """Write video `index` as H.264 mp4, with its metadata inside and in a JSON beside it."""
        facts = self.metadata[index]
        save_video(path, self.frames[index], fps=self.fps, metadata=facts, writer=writer)


@dataclass(frozen=True, kw_only=True)
class SampleSpec:
    """What one call asks for. `steps` and `guidance` replace those of every stage that runs
    (guidance only of stages that are guided). `num_frames` counts frames of the last stage run;
    1 is an image, which needs no temporal stage. `until` ends after a stage; `start` begins at
    one, from a video of the stage before."""

    seed: int = 0
    negative_prompt: str = ""
    steps: int | None = None
    guidance: float | None = None
    num_frames: int | None = None
    until: str | None = None
    start: str | None = None


@dataclass(frozen=True)
class Run:
    """One prompt of a call: its place, which repetition it is, and its text (and negative)."""

    prompt: int
    sample: int
    wanted: SampleSpec
    text: TextEmbedding


@dataclass(frozen=True)
class Low:
    """The video that a stage starts from, and its frame rate."""

    frames: Frames
    fps: float


def run_stages(stages: list[Stage], count: int, run: Run, low: Low | None) -> Iterator[Progress]:
    """The first `count` of the stages that are left."""
    for i, stage in enumerate(stages[:count]):
        before = None if low is None else len(low.frames)
        frames = _frames_out(stages[i:], run.wanted.num_frames, before)
        for progress in run_stage(stage, run, low, frames):
            if progress.video is not None:
                low = Low(progress.video, progress.fps)
            yield progress


def _frames_out(stages: list[Stage], wanted: int | None, before: int | None) -> int:
    """Frames that the first of `stages` makes, so that the last of them makes `wanted`."""
    spec = stages[0].spec
    full = spec.output.frames if before is None else before * spec.time_factor
    if wanted is None:
        return full
    after = math.prod(stage.spec.time_factor for stage in stages[1:])
    needed = -(-wanted // after)
    return needed if before is None else min(full, needed)


def run_stage(stage: Stage, run: Run, low: Low | None, frames: int) -> Iterator[Progress]:
    """One stage for one prompt, to `frames` frames; the last Progress carries the video.

    In inference mode while a step is made, not where it is looked at.
    """
    with closing(_steps_of(stage, run, low, frames)) as steps:
        while True:
            with torch.inference_mode():
                progress = next(steps, None)
            if progress is None:
                return
            yield progress


def _steps_of(
    stage: Stage, run: Run, low: Low | None, frames: int
) -> Generator[Progress, None, None]:
    return_freed_memory()
    spec, noise = stage.spec, Noise(run.wanted.seed)
    sampler = bounded(override(spec.sampler, run.wanted), spec, frames)
    small, fps = None, spec.output.fps
    height, width = spec.output.size
    if low is not None:
        small, fps = to_float(low.frames)[None], low.fps * spec.time_factor
        height, width = (side * spec.space_factor for side in small.shape[-2:])

    def conditioning(row: int) -> Conditioning:
        rows = slice(row, row + 1)
        text = TextEmbedding(run.text.tokens[rows], run.text.mask[rows])
        return stage.conditioning(text, frames=frames, low=small, noise=noise, sample=run.sample)

    takes_negative = sampler.guidance.on and spec.unet.takes_negative
    negative = len(run.text.tokens) > 1 and takes_negative
    steps = stage.sample_steps(
        conditioning(0),
        (1, frames, 3, height, width),
        noise,
        sampler=sampler,
        negative=conditioning(1) if negative else None,
        sample=run.sample,
    )
    small = None  # conditioning has it, at another level of noise
    whole = torch.empty(frames, 3, height, width, dtype=torch.uint8)
    for state in steps:
        part, parts = state.part
        step, num_steps = state.step * parts + part, state.num_steps * parts
        progress = Progress(run.prompt, spec.name, step, num_steps, fps, state)
        if state.step + 1 == state.num_steps:
            whole[state.frames] = _frames_of(state)
        if step + 1 == num_steps:
            progress.video = whole
        yield progress


def bounded(sampler: SamplerSpec, spec: StageSpec, frames: int) -> SamplerSpec:
    """Longer videos than a stage's own in windows of as many frames, where its layers look only so
    far: in the memory of one of them, and equal to one call."""
    if sampler.window is None and frames > spec.output.frames and spec.unet.temporal == "conv":
        return replace(sampler, window=spec.output.frames)
    return sampler


def run_in_parts(stage: Stage, run: Run, low: Low) -> Iterator[Progress]:
    """`run_stage` on a video of any size and length, part by part.

    The video is padded to a legal size and cropped back, never rescaled. Above PART values it is
    sampled in parts one after the other: each sees the frames around it that one network call
    reaches, and has noise of its own. Memory is bounded beside the result in 8 bits.
    """
    spec = stage.spec
    padded, (height, width) = pad(low.frames, stage.spec)
    values = 3 * padded.shape[-2] * padded.shape[-1] * spec.space_factor**2 * spec.time_factor
    length = max(1, PART // values)
    starts = range(0, len(padded), length)
    whole = torch.empty(len(padded) * spec.time_factor, 3, height, width, dtype=torch.uint8)
    # Over time, a new frame is made from the next known one too.
    around = -(-spec.unet.temporal_reach // spec.time_factor) + (spec.time_factor > 1)
    for i, start in enumerate(starts):
        stop = min(start + length, len(padded))
        first = max(0, start - around)
        seen = Low(padded[first : stop + around], low.fps)
        part = replace(run, sample=run.sample + i)
        for progress in run_stage(stage, part, seen, len(seen.frames) * spec.time_factor):
            if progress.video is not None:
                inner = slice((start - first) * spec.time_factor, (stop - first) * spec.time_factor)
                outer = slice(start * spec.time_factor, stop * spec.time_factor)
                whole[outer] = progress.video[inner, :, :height, :width]
                progress.video = whole if stop == len(padded) else None
            progress.step += i * progress.num_steps
            progress.num_steps *= len(starts)
            yield progress


def override(sampler: SamplerSpec, wanted: SampleSpec) -> SamplerSpec:
    """The stage's sampler with the steps and guidance of a call.

    With fewer steps, the constant part of oscillating guidance keeps its share; a weight of a call
    is constant, within the interval of the stage.
    """
    guidance = sampler.guidance
    if wanted.steps is not None:
        share = guidance.constant_steps * wanted.steps / sampler.num_steps
        guidance = replace(guidance, constant_steps=round(share))
        sampler = replace(sampler, num_steps=wanted.steps)
    if wanted.guidance is not None and guidance.on:
        guidance = replace(guidance, weight=wanted.guidance, low=None, constant_steps=0)
    return replace(sampler, guidance=guidance)


def check_wishes(stages: list[Stage], wanted: SampleSpec, low_frames: int | None) -> None:
    """ValueError for frames that cannot be made and for a negative prompt that nothing reads."""
    if wanted.num_frames is not None:
        most = math.inf
        if low_frames is not None:
            most = low_frames * math.prod(stage.spec.time_factor for stage in stages)
        if not 1 <= wanted.num_frames <= most:
            span = "be at least 1" if low_frames is None else f"lie in 1..{most}"
            raise ValueError(f"num_frames must {span}, got {wanted.num_frames}")
    guided = [stage for stage in stages if override(stage.spec.sampler, wanted).guidance.on]
    for stage in guided:
        if wanted.negative_prompt and stage.spec.unet.takes_negative:
            continue  # guided by two calls
        sampler = override(stage.spec.sampler, wanted)
        schedule = sampling_schedule(stage.spec, sampler)
        stage.spec.refuse_unlearned(guidance_weights(sampler.guidance, sampler.num_steps, schedule))
    if wanted.negative_prompt:
        _check_negative(guided)


def _check_negative(guided: list[Stage]) -> None:
    """ValueError where no stage takes a negative prompt, a warning where some do not."""
    if not guided:
        raise ValueError("a negative prompt needs guidance, which is off in every stage that runs")
    learned = [stage for stage in guided if not stage.spec.unet.takes_negative]
    if len(learned) == len(guided):
        learned[0].spec.refuse_negative()
    if learned:
        names = ", ".join(stage.spec.name for stage in learned)
        warnings.warn(
            f"the negative prompt is not read by {names}: what has learned guidance is guided away "
            "from the empty caption",
            stacklevel=5,
        )


def save_video(
    path: str | Path,
    frames: Frames,
    *,
    fps: float,
    metadata: dict[str, Any],
    writer: Writer = VideoWriter,
) -> None:
    """mp4 with metadata inside, and the same as JSON beside it; `provenance.Marks` has another
    `writer`, which watermarks and signs."""
    path = Path(path)
    height, width = frames.shape[-2:]
    with writer(path, height=height, width=width, fps=fps, metadata=metadata) as file:
        for start in range(0, len(frames), CHUNK):
            file.write(frames[start : start + CHUNK])
    with replacing(path.with_suffix(".json")) as beside:
        beside.write_text(json.dumps(metadata, indent=2) + "\n")


def _frames_of(state: SamplerState) -> Frames:
    """The state's clean video in 8 bits, a few frames at a time."""
    frames = torch.empty(state.z.shape[1:], dtype=torch.uint8)
    for start in range(0, len(frames), CHUNK):
        part = slice(start, start + CHUNK)
        frames[part] = to_uint8(state.x_of(part)[0])
    return frames
