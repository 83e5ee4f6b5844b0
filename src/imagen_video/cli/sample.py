"""imagen-video generate and upscale."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from imagen_video.cli.provenance import Provenance
from imagen_video.cli.safety import Safety

if TYPE_CHECKING:  # torch takes a second to import: only commands that need it pay
    from imagen_video.sampling import Progress
    from imagen_video.video import VideoClip


@dataclass
class Generate(Safety, Provenance):
    """Make a video from every prompt."""

    prompts: Positional[tuple[str, ...]] = ()
    """What the video shows; several prompts make several videos."""
    prompts_file: Path | None = None
    """More prompts, one a line."""
    output: Annotated[Path, arg(aliases=["-o"])] = Path("video.mp4")
    """An mp4; of several prompts, number i is added to its name."""
    model: str = "mini"
    """The cascade: mini, a folder of save_pretrained, or org/name of the Hugging Face hub."""
    seed: int = 0
    """The same seed and prompt give the same video."""
    negative_prompt: str = ""
    """What guidance moves away from."""
    steps: int | None = None
    """Steps of every stage (default: each stage's own)."""
    guidance: float | None = None
    """Guidance weight of the guided stages; 0 is off."""
    num_frames: int | None = None
    """Frames of the result; 1 is an image."""
    until: str | None = None
    """The last stage to run."""
    start: Annotated[str | None, arg(name="from")] = None
    """The first stage to run, on --input."""
    input: Path | None = None
    """The video that --from begins with."""
    save_stages: bool = False
    """Save every stage's video as it ends."""
    device: tuple[str, ...] = ("cpu",)
    """cpu or cuda; several, such as cuda:0 cuda:1, share the stages and work on several prompts."""


@dataclass
class Upscale(Safety, Provenance):
    """Super-resolve a video: every frame is kept, nothing is rescaled."""

    video: Positional[Path]
    prompt: str = ""
    """What the video shows."""
    output: Annotated[Path, arg(aliases=["-o"])] = Path("upscaled.mp4")
    model: str = "mini"
    stages: tuple[str, ...] = ("ssr3",)
    """The upsampling stages to run, in order."""
    seed: int = 0
    steps: int | None = None
    max_frames: int | None = None
    """Only the first frames."""
    device: str = "cpu"


def run_generate(options: Generate) -> None:
    from imagen_video.cascade import Cascade
    from imagen_video.memory import keep_freed_memory
    from imagen_video.safety import filtered
    from imagen_video.sampling import SampleSpec, save_video

    prompts = _prompts(options)
    outputs = _outputs(options.output, len(prompts))
    _probe(outputs)
    writer = options.writer(source=options.input)
    filters = options.filters()
    low = _read(options.input) if options.input else None
    wanted = SampleSpec(
        seed=options.seed,
        negative_prompt=options.negative_prompt,
        steps=options.steps,
        guidance=options.guidance,
        num_frames=options.num_frames,
        until=options.until,
        start=options.start,
    )
    keep_freed_memory()
    cascade = Cascade.from_pretrained(options.model, device=options.device)
    frames, fps = (low.frames, low.fps) if low else (None, None)
    last = cascade.plan(wanted, low_frames=None if low is None else len(low.frames))[-1].spec.name
    given = {"input": str(options.input)} if options.input else {}
    steps = filtered(cascade, filters).stream(prompts, wanted, low=frames, low_fps=fps)
    for progress in _with_bars(steps):
        if progress.video is None:
            continue
        output = outputs[progress.prompt]
        facts = cascade.metadata(prompts, progress.prompt, wanted, **given)
        if options.save_stages and progress.stage != last:
            output = output.with_stem(f"{output.stem}.{progress.stage}")
        elif progress.stage != last:
            continue
        save_video(output, progress.video, fps=progress.fps, metadata=facts, writer=writer)
        print(f"{output}: {_describe(progress)}")


def run_upscale(options: Upscale) -> None:
    from imagen_video.cascade import Cascade
    from imagen_video.memory import keep_freed_memory
    from imagen_video.safety import filtered
    from imagen_video.sampling import SampleSpec, save_video
    from imagen_video.video import read_video

    _probe([options.output])
    writer = options.writer(source=options.video)
    filters = options.filters()
    clip = read_video(options.video, max_frames=options.max_frames)
    keep_freed_memory()
    cascade = Cascade.from_pretrained(options.model, device=options.device)
    _check_even(clip, [cascade.spec.stage(name).space_factor for name in options.stages])
    steps = filtered(cascade, filters).upscale(
        clip.frames,
        options.prompt,
        fps=clip.fps,
        stages=options.stages,
        seed=options.seed,
        steps=options.steps,
    )
    video, fps = clip.frames, clip.fps
    for progress in _with_bars(steps):
        if progress.video is not None:
            video, fps = progress.video, progress.fps
    wanted = SampleSpec(seed=options.seed, steps=options.steps, guidance=0.0)
    more = {"source": str(options.video), "stages": options.stages}
    facts = cascade.metadata([options.prompt], 0, wanted, **more)
    save_video(options.output, video, fps=fps, metadata=facts, writer=writer)
    print(f"{options.output}: {len(video)} frames of {video.shape[-1]}x{video.shape[-2]}")


def _prompts(options: Generate) -> list[str]:
    from imagen_video.files import lines_of

    prompts = list(options.prompts)
    if options.prompts_file:
        lines = lines_of(options.prompts_file)
        prompts += [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise ValueError('give a prompt, such as "a red balloon rising", or --prompts-file')
    return prompts


def _outputs(output: Path, count: int) -> list[Path]:
    if count == 1:
        return [output]
    return [output.with_stem(f"{output.stem}-{i}") for i in range(count)]


def _probe(outputs: list[Path]) -> None:
    from imagen_video.video import probe_output

    for output in outputs:
        probe_output(output)


def _read(path: Path) -> "VideoClip":
    from imagen_video.video import read_video

    return read_video(path)


def _check_even(clip: "VideoClip", factors: list[int]) -> None:
    """H.264 stores colour for 2x2 pixels: say so before the work, not after it."""
    height, width = clip.frames.shape[-2:]
    if any(side * math.prod(factors) % 2 for side in (height, width)):
        raise ValueError(
            f"{width}x{height} stays odd, and an mp4 needs even sides: name a stage that enlarges"
        )


def _with_bars(steps: "Iterator[Progress]") -> "Iterator[Progress]":
    """The same progress, shown as one bar a stage."""
    from tqdm import tqdm

    bars: dict[tuple[int, str], tqdm] = {}
    try:
        for progress in steps:
            key = progress.prompt, progress.stage
            if progress.step == 0:
                bars[key] = tqdm(total=progress.num_steps, desc=f"{progress.stage:>5}", unit="step")
            bars[key].update()
            if progress.video is not None:
                bars.pop(key).close()
            yield progress
    finally:  # an error has a line of its own
        for bar in bars.values():
            bar.close()


def _describe(progress: "Progress") -> str:
    assert progress.video is not None
    frames, _, height, width = progress.video.shape
    return f"{frames} frames of {width}x{height} at {progress.fps:g} fps"
