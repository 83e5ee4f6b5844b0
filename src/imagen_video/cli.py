"""The command line: one dataclass of options and one function a command."""

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import tyro
from tyro.conf import Positional, arg

if TYPE_CHECKING:  # torch takes a second to import: only commands that need it pay
    from imagen_video.sampling import Progress
    from imagen_video.spec import CascadeSpec
    from imagen_video.video import VideoClip

T = TypeVar("T")


@dataclass
class Generate:
    """Make a video from every prompt."""

    prompts: Positional[tuple[str, ...]] = ()
    """What the video shows; several prompts make several videos."""
    prompts_file: Path | None = None
    """More prompts, one a line."""
    output: Annotated[Path, arg(aliases=["-o"])] = Path("video.mp4")
    """An mp4; of several prompts, number i is added to its name."""
    model: str = "mini"
    """The cascade: mini, or a folder of save_pretrained."""
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


@dataclass
class Upscale:
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


@dataclass
class Train:
    """Train one stage; the same command on the same folder resumes exactly. Started by torchrun,
    the same command trains on many processes."""

    out: Path
    """Folder of checkpoints, weights, log and sample sheets."""
    stage: str
    preset: str = "mini"
    """mini, tiny, paper, or file.py:function."""
    data: tuple[str, ...] = ("stickers",)
    """stickers, folders, manifests (.jsonl, .csv, .parquet) or tars; NAME=WEIGHT to mix them."""
    steps: int | None = None
    """Length of the schedule (default: the preset's)."""
    minutes: float | None = None
    """Stop early after so long; the schedule counts steps."""
    init_from: Path | None = None
    """A stage folder whose matching weights a fresh run starts from."""
    captions: Path | None = None
    """A file of `data carry` or `data embed`, read instead of running the text encoder."""
    cropping: Literal["random", "centre"] = "random"
    """Which part of frames of another shape is shown."""
    max_bad: float = 0.05
    """The run ends when a larger share of a source cannot be read."""
    seed: int = 0
    device: str = "cpu"
    threads: int | None = None
    """CPU threads (default: PyTorch's)."""
    workers: int = 1
    """Processes that load data, for each process that trains."""
    shards: int = 1
    """Processes over which a network is spread: 1 is data parallel, all of them FSDP."""
    accumulate: int = 1
    """Parts in which a batch is computed."""
    precision: Literal["bf16", "fp32"] = "bf16"
    recompute: bool = False
    """Keep no activations inside blocks for the backward pass: less memory, more time."""
    compiled: bool = False
    """Compile every block."""
    save_minutes: float = 5.0
    sheet_minutes: float = 15.0
    keep: int = 2
    """Checkpoints to keep, besides the best."""
    tensorboard: bool = False
    """Write TensorBoard's files too."""


@dataclass
class Info:
    """Print a cascade as a table."""

    model: Positional[str] = "mini"
    """A preset, file.py:function, or a folder."""
    json: bool = False


@dataclass
class Data:
    """Look at training data, or write it for a machine without drawing tools and text encoder."""

    action: Positional[Literal["preview", "carry"]]
    """preview: a contact sheet and an mp4. carry: rendered stickers and caption embeddings for the
    first --steps of a stage; there, set IMAGEN_VIDEO_CACHE to the folder and train with --captions.
    """
    out: Path = Path("stickers")
    """Folder to write into."""
    preset: str = "mini"
    stage: str = "base"
    steps: int = 1000
    seed: int = 0


def main() -> None:
    """Entry point: a bad input is one line on stderr and exit code 2."""
    commands = {
        "generate": Generate,
        "upscale": Upscale,
        "train": Train,
        "info": Info,
        "data": Data,
    }
    run = {Generate: generate, Upscale: upscale, Train: train, Info: info, Data: data}
    options = tyro.extras.subcommand_cli_from_dict(commands, prog="imagen-video")
    try:
        run[type(options)](options)
    except (ValueError, OSError) as error:
        print(f"imagen-video: {error}", file=sys.stderr)
        sys.exit(2)
    except RuntimeError as error:
        if type(error).__name__ != "Lost":  # not imported for it: torch takes a second
            raise
        print(f"imagen-video: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def generate(options: Generate) -> None:
    from imagen_video.cascade import Cascade
    from imagen_video.sampling import SampleSpec, save_video

    prompts = _prompts(options)
    outputs = _outputs(options.output, len(prompts))
    _probe(outputs)
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
    cascade = Cascade.from_pretrained(options.model)
    frames, fps = (low.frames, low.fps) if low else (None, None)
    last = cascade.plan(wanted, low_frames=None if low is None else len(low.frames))[-1].spec.name
    given = {"input": str(options.input)} if options.input else {}
    for progress in _with_bars(cascade.stream(prompts, wanted, low=frames, low_fps=fps)):
        if progress.video is None:
            continue
        output = outputs[progress.prompt]
        facts = cascade.metadata(prompts, progress.prompt, wanted, **given)
        if options.save_stages and progress.stage != last:
            output = output.with_stem(f"{output.stem}.{progress.stage}")
        elif progress.stage != last:
            continue
        save_video(output, progress.video, fps=progress.fps, metadata=facts)
        print(f"{output}: {_describe(progress)}")


def upscale(options: Upscale) -> None:
    from imagen_video.cascade import Cascade
    from imagen_video.sampling import SampleSpec, save_video
    from imagen_video.video import read_video

    _probe([options.output])
    clip = read_video(options.video, max_frames=options.max_frames)
    cascade = Cascade.from_pretrained(options.model)
    _check_even(clip, [cascade.spec.stage(name).space_factor for name in options.stages])
    steps = cascade.upscale(
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
    save_video(options.output, video, fps=fps, metadata=facts)
    print(f"{options.output}: {len(video)} frames of {video.shape[-1]}x{video.shape[-2]}")


def train(options: Train) -> None:
    import torch

    from imagen_video.training.job import JobSpec, train_stage
    from imagen_video.training.run import RunSpec

    if options.threads:
        torch.set_num_threads(options.threads)
    job, run = _as(JobSpec, options), _as(RunSpec, options)
    train_stage(_preset(options.preset), job, run)


def _as(kind: type[T], options: object) -> T:
    """The fields of a spec that the options have too."""
    given = vars(options)
    return kind(**{f.name: given[f.name] for f in fields(kind) if f.name in given})  # pyright: ignore


def info(options: Info) -> None:
    from imagen_video.info import as_json, as_table, describe

    rows = describe(_preset(options.model))
    print(as_json(rows) if options.json else as_table(rows))


def data(options: Data) -> None:
    from imagen_video.data.stickers.preview import preview

    options.out.mkdir(parents=True, exist_ok=True)
    if options.action == "carry":
        from imagen_video.training.job import carry_along

        spec, steps, seed = _preset(options.preset), options.steps, options.seed
        file = carry_along(spec, options.stage, options.out, steps=steps, seed=seed)
        print(f"IMAGEN_VIDEO_CACHE={options.out} imagen-video train ... --captions {file}")
        return
    preview(options.out / "preview.png", options.out / "preview.mp4")
    print(f"{options.out}/preview.png and preview.mp4")


def _preset(name: str) -> "CascadeSpec":
    from imagen_video.presets import find

    return find(name)


def _prompts(options: Generate) -> list[str]:
    prompts = list(options.prompts)
    if options.prompts_file:
        lines = options.prompts_file.read_text().splitlines()
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

    bar = None
    for progress in steps:
        if progress.step == 0:
            bar = tqdm(total=progress.num_steps, desc=f"{progress.stage:>5}", unit="step")
        assert bar is not None
        bar.update()
        if progress.video is not None:
            bar.close()
        yield progress


def _describe(progress: "Progress") -> str:
    assert progress.video is not None
    frames, _, height, width = progress.video.shape
    return f"{frames} frames of {width}x{height} at {progress.fps:g} fps"
