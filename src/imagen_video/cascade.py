"""The whole cascade: a prompt in, a video out, one stage after the other."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from imagen_video import __version__
from imagen_video.diffusion.sampler import Noise, SamplerState
from imagen_video.files import replacing
from imagen_video.shapes import UInt8
from imagen_video.spec import CascadeSpec, GuidanceSpec, SamplerSpec, from_json, to_json
from imagen_video.stage import Stage
from imagen_video.text.encoder import TextEmbedding, TextEncoder, load_encoder
from imagen_video.video import Frames, VideoWriter, to_float, to_uint8
from imagen_video.weights import load_stage, save_stage

SPEC = "cascade.json"
# Frames turned to 8 bits at a time: a copy of the last stage's whole clip would be 1.5 GB.
CHUNK = 16


@dataclass
class Progress:
    """One step of one stage for one prompt; the last of a stage carries its finished `video`.

    `preview()` is the current guess, to be asked for before the next Progress.
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

    def save(self, path: str | Path, *, index: int = 0) -> None:
        """Write video `index` as H.264 mp4, with its metadata inside and in a JSON beside it."""
        save_video(path, self.frames[index], fps=self.fps, metadata=self.metadata[index])


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


class Cascade:
    """Stages and the text encoder all of them read; sizes and order are in `spec`."""

    def __init__(self, spec: CascadeSpec, stages: Sequence[Stage], encoder: TextEncoder):
        if [stage.spec for stage in stages] != list(spec.stages):
            raise ValueError(f"the stages do not match cascade {spec.name!r}")
        self.spec, self.stages, self.encoder = spec, tuple(stages), encoder

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = "mini",
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.bfloat16,
    ) -> "Cascade":
        """Load "mini", which comes with the package, or a folder of `save_pretrained`."""
        folder = shipped(str(name)) or Path(name)
        if not (folder / SPEC).is_file():
            raise ValueError(f"no {SPEC} in {folder}: give 'mini' or a folder of save_pretrained")
        spec = from_json(CascadeSpec, (folder / SPEC).read_text())
        stages = [
            load_stage(folder / stage.name, device=device, dtype=dtype) for stage in spec.stages
        ]
        return cls(spec, stages, load_encoder(spec.text))

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
        """Write cascade.json and a folder a stage."""
        folder = Path(folder)
        for stage in self.stages:
            save_stage(stage, folder / stage.spec.name, dtype=dtype)
        with replacing(folder / SPEC) as path:
            path.write_text(to_json(self.spec))

    def __call__(self, prompts: str | Sequence[str], **options: Any) -> Sample:
        """Sample one video a prompt; `options` are the fields of `SampleSpec`."""
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        wanted = SampleSpec(**options)
        videos: dict[str, list[Frames]] = {}
        fps = 0.0
        for progress in self.stream(prompts, wanted):
            if progress.video is not None:
                videos.setdefault(progress.stage, []).append(progress.video)
                fps = progress.fps
        stages = {name: torch.stack(found) for name, found in videos.items()}
        facts = tuple(self.metadata(prompt, wanted) for prompt in prompts)
        return Sample(stages[list(stages)[-1]], fps, stages, facts)

    def stream(
        self, prompts: Sequence[str], wanted: SampleSpec, *, low: Frames | None = None
    ) -> Iterator[Progress]:
        """Sample prompt after prompt, stage after stage; a Progress every step.

        The same seed and prompt give the same video in any list; a prompt given n times gives n
        videos. `low` is the video that `wanted.start` begins from.
        """
        if not prompts or not all(prompt.strip() for prompt in prompts):
            raise ValueError("every prompt needs some text; to sample without one, use guidance 0")
        stages = self.plan(wanted)
        if (low is None) != (stages[0].spec.kind == "base"):
            raise ValueError(
                f"stage {stages[0].spec.name!r} starts from a video: give one"
                if low is None
                else "the base stage starts from noise, not from a video: name a later stage"
            )
        embedding = self.encoder([*prompts, wanted.negative_prompt])
        seen: Counter[str] = Counter()
        for i, prompt in enumerate(prompts):
            rows = [i, len(prompts)] if wanted.negative_prompt else [i]
            text = TextEmbedding(embedding.tokens[rows], embedding.mask[rows])
            run = _Run(i, seen[prompt], wanted, text)
            yield from self._one(stages, run, low)
            seen[prompt] += 1

    def plan(self, wanted: SampleSpec) -> list[Stage]:
        """The stages that a call runs. Raises ValueError for a name that is not there."""
        names = [stage.name for stage in self.spec.stages]
        for name in (wanted.start, wanted.until):
            if name is not None:
                self.spec.stage(name)
        first = names.index(wanted.start) if wanted.start else 0
        last = names.index(wanted.until) if wanted.until else len(names) - 1
        if first > last:
            raise ValueError(f"{wanted.start!r} comes after {wanted.until!r}: {', '.join(names)}")
        if wanted.num_frames is not None and wanted.num_frames < 1:
            raise ValueError(f"num_frames must be at least 1, got {wanted.num_frames}")
        stages = list(self.stages[first : last + 1])
        if wanted.num_frames == 1:
            stages = [stage for stage in stages if stage.spec.kind != "tsr"]
        return stages

    def _one(self, stages: list[Stage], run: "_Run", low: Frames | None) -> Iterator[Progress]:
        frames = None if low is None else len(low)
        for i, stage in enumerate(stages):
            frames = _frames_out(stages[i:], run.wanted.num_frames, frames)
            for progress in run_stage(stage, run, low, frames):
                yield progress
                low = progress.video
            assert low is not None
            frames = len(low)

    def upscale(
        self,
        video: Frames,
        prompt: str = "",
        *,
        stages: Sequence[str] = ("ssr3",),
        seed: int = 0,
        steps: int | None = None,
        aug_logsnr: float = 6.0,
    ) -> Iterator[Progress]:
        """Super-resolve a real video, or another generator's: any size and frame count.

        The video is padded to a legal size and cropped back, never rescaled; little augmentation
        and no guidance, so that it stays what it is. Yields as `stream` does.
        """
        text = self.encoder([prompt])
        wanted = SampleSpec(seed=seed, steps=steps, guidance=0.0)
        run = _Run(0, 0, wanted, text)
        for name in stages:
            stage = self.stages[
                [s.name for s in self.spec.stages].index(self.spec.stage(name).name)
            ]
            if stage.spec.kind == "base":
                raise ValueError("the base stage makes videos from noise: name an upsampling stage")
            sampler = replace(stage.spec.sampler, aug_logsnr=aug_logsnr)
            closer = Stage(replace(stage.spec, sampler=sampler), stage.unet)
            padded, box = _pad(video, closer)
            frames = len(video) * stage.spec.time_factor
            for progress in run_stage(closer, run, padded, frames):
                if progress.video is not None:
                    progress.video = progress.video[..., : box[0], : box[1]].contiguous()
                    video = progress.video
                yield progress

    def metadata(self, prompt: str, wanted: SampleSpec) -> dict[str, Any]:
        """What it takes to make the video again."""
        return {
            "prompt": prompt,
            **asdict(wanted),
            "model": self.spec.name,
            "encoder": self.encoder.name,
            "version": __version__,
            "spec": asdict(self.spec),
        }


@dataclass(frozen=True)
class _Run:
    """One prompt of a call: its place, which repetition it is, and its text (and negative)."""

    prompt: int
    sample: int
    wanted: SampleSpec
    text: TextEmbedding


def run_stage(stage: Stage, run: _Run, low: Frames | None, frames: int) -> Iterator[Progress]:
    """One stage for one prompt, to `frames` frames; the last Progress carries the video."""
    spec, noise = stage.spec, Noise(run.wanted.seed)
    sampler = override(spec.sampler, run.wanted)
    small = None if low is None else to_float(low)[None]
    height, width = spec.output.size
    if small is not None:
        height, width = (side * spec.space_factor for side in small.shape[-2:])

    def conditioning(row: int):
        rows = slice(row, row + 1)
        text = TextEmbedding(run.text.tokens[rows], run.text.mask[rows])
        return stage.conditioning(text, frames=frames, low=small, noise=noise, sample=run.sample)

    with torch.inference_mode():
        steps = stage.sample_steps(
            conditioning(0),
            (1, frames, 3, height, width),
            noise,
            sampler=sampler,
            negative=conditioning(1) if len(run.text.tokens) > 1 else None,
            sample=run.sample,
        )
        for state in steps:
            fps = spec.output.fps
            progress = Progress(run.prompt, spec.name, state.step, state.num_steps, fps, state)
            if state.step + 1 == state.num_steps:
                progress.video = _frames_of(state)
            yield progress


def override(sampler: SamplerSpec, wanted: SampleSpec) -> SamplerSpec:
    """The stage's sampler with the steps and guidance of a call."""
    if wanted.steps is not None:
        sampler = replace(sampler, num_steps=wanted.steps)
    if wanted.guidance is not None and sampler.guidance.on:
        sampler = replace(sampler, guidance=GuidanceSpec(weight=wanted.guidance))
    return sampler


def save_video(path: str | Path, frames: Frames, *, fps: float, metadata: dict[str, Any]) -> None:
    """mp4 with metadata inside, and the same as JSON beside it."""
    import json

    path = Path(path)
    height, width = frames.shape[-2:]
    with VideoWriter(path, height=height, width=width, fps=fps, metadata=metadata) as writer:
        for start in range(0, len(frames), CHUNK):
            writer.write(frames[start : start + CHUNK])
    with replacing(path.with_suffix(".json")) as beside:
        beside.write_text(json.dumps(metadata, indent=2) + "\n")


def shipped(name: str) -> Path | None:
    """The folder of a cascade that comes with the package."""
    folder = Path(__file__).parent / name
    return folder if name == "mini" else None


def _frames_of(state: SamplerState) -> Frames:
    """The state's clean video in 8 bits, a few frames at a time."""
    starts = range(0, state.z.shape[1], CHUNK)
    return torch.cat([to_uint8(state.x_of(slice(i, i + CHUNK))[0]).cpu() for i in starts])


def _frames_out(stages: list[Stage], wanted: int | None, before: int | None) -> int:
    """Frames that the first of `stages` makes, so that the last of them makes `wanted`."""
    spec = stages[0].spec
    full = spec.output.frames if before is None else before * spec.time_factor
    if wanted is None:
        return full
    after = 1
    for stage in stages[1:]:
        after *= stage.spec.time_factor
    needed = -(-wanted // after)
    return needed if before is None else min(full, needed)


def _pad(
    video: Frames, stage: Stage
) -> tuple[UInt8[torch.Tensor, "f c padded_h padded_w"], tuple[int, int]]:
    """Repeat the edges up to the next legal size; the box is what the result is cropped to."""
    spec = stage.spec
    step = max(1, spec.unet.multiple // spec.space_factor)
    height, width = video.shape[-2:]
    padding = (0, -width % step, 0, -height % step)
    padded = F.pad(video.float(), padding, mode="replicate").to(torch.uint8)
    return padded, (height * spec.space_factor, width * spec.space_factor)
