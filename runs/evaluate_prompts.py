"""Judge what a cascade makes of the 64 committed prompts: its ground, its motion, its object.

    python runs/evaluate_prompts.py                           # base output, 64 prompts, ~2 minutes
    python runs/evaluate_prompts.py --final                   # all stages, 16 prompts, ~10 minutes
    python runs/evaluate_prompts.py --base-stage out/base     # a training folder, no cascade needed
    python runs/evaluate_prompts.py --videos out/prompts      # 00.mp4, 01.mp4, ... made before

Prompt i is sampled with seed `--seed` + i. Prints the share of right answers with its 95 % Wilson
interval, and the judges' own on ground truth with the same attributes; writes result.json and
sheet.png (and with --final the videos) into --out. `imagen-video evaluate` measures more; this
tells prompts apart by style, by motion, and by whether training has shown the pair.
Wanted: background 95 %, motion 60 %, concept 40 %, at base and at final output.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import tyro
from tqdm import tqdm

from imagen_video.cascade import Cascade
from imagen_video.data.stickers import render, scene_for
from imagen_video.data.stickers.concepts import COLOURS, STYLES
from imagen_video.data.stickers.evaluation import FIELDS, eval_prompts
from imagen_video.data.stickers.motions import MOTIONS
from imagen_video.data.stickers.splits import held_out_colour, held_out_motion
from imagen_video.files import replacing
from imagen_video.memory import keep_freed_memory
from imagen_video.metrics.measures import percent
from imagen_video.metrics.panel import SHIPPED, Panel
from imagen_video.pictures import contact_sheet, write_png
from imagen_video.presets import SHORT_CAPTIONS
from imagen_video.sampling import SampleSpec, save_video
from imagen_video.spec import CascadeSpec
from imagen_video.text.encoder import load_encoder
from imagen_video.video import (
    Frames,
    VideoFormat,
    read_video,
    resize,
    to_float,
    to_uint8,
)
from imagen_video.weights import load_stage, working_dtype

FACTS = ("background", "motion", "concept")
LAYOUTS = 4
"""Ground truth is rendered this many times a prompt, laid out differently."""
FRAMES, FPS = 16, 3.0
"""The judges see so many frames of a clip, which are those at this rate."""
SHEET_HEIGHT, SHEET_COLUMNS = 96, 8
Row = dict[str, str]
Answers = list[tuple[Row, Row]]
"""What was asked for, and what the judges see."""


@dataclass
class Options:
    """Generate from the committed prompts and judge the result."""

    model: str = "mini"
    """A cascade: mini, or a folder of save_pretrained."""
    base_stage: Path | None = None
    """A base stage's folder (stage.json, model.safetensors), instead of a whole cascade."""
    videos: Path | None = None
    """A folder of videos made before, 00.mp4 for the first prompt: judge these."""
    final: bool = False
    """Run all stages, on 16 prompts unless --prompts says otherwise."""
    prompts: int | None = None
    skip: int = 0
    """Leave out so many prompts at the start: halves can run side by side."""
    steps: int | None = None
    guidance: float | None = None
    seed: int = 0
    judges: Path = SHIPPED
    """A folder of runs/judge.py."""
    out: Path = Path("out/prompts")
    threads: int = 2


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    panel = Panel.load(options.judges, COLOURS)
    rows = eval_prompts()[options.skip :][: options.prompts or (16 if options.final else 64)]
    options.out.mkdir(parents=True, exist_ok=True)
    answers: dict[str, Answers] = {}
    shown: dict[str, list[Frames]] = {}
    sizes: dict[str, tuple[int, ...]] = {}
    clips = watched(options, rows) if options.videos else generated(options, rows)
    for stage, row, clip in clips:
        answers.setdefault(stage, []).append((row, panel(clip)))
        shown.setdefault(stage, []).append(small(clip))
        sizes[stage] = (len(clip), *clip.shape[-2:])
    results = {}
    for stage, found in answers.items():
        truth = on_ground_truth(panel, [row for row, _ in found], sizes[stage])
        print(f"\n{stage} {'x'.join(map(str, sizes[stage]))}, {len(found)} prompts")
        print(table(found, truth))
        own = panel.accuracies(sizes[stage][0], sizes[stage][1]).values()
        told = ", ".join(f"{a.question} {percent(a.right, a.of)}" for a in own)
        print(f"judges on held-out clips: {told}")
        results[stage] = {"shares": shares(found), "truth": shares(truth), "answers": found}
    save(options, results, shown)


def generated(options: Options, rows: list[Row]) -> Iterator[tuple[str, Row, Frames]]:
    """Every stage's video of every prompt, with the stage's name."""
    cascade = (
        base_alone(options.base_stage)
        if options.base_stage
        else Cascade.from_pretrained(options.model)
    )
    names = [stage.name for stage in cascade.spec.stages]
    for i, row in enumerate(tqdm(rows, unit="prompt"), start=options.skip):
        wanted = SampleSpec(
            seed=options.seed + i,
            steps=options.steps,
            guidance=options.guidance,
            until=None if options.final else names[0],
        )
        for progress in cascade.stream([row["prompt"]], wanted):
            if progress.video is None:
                continue
            yield progress.stage, row, progress.video
            if options.final and progress.stage == names[-1]:
                facts = cascade.metadata([row["prompt"]], 0, wanted)
                path = options.out / f"{i:02}.mp4"
                save_video(path, progress.video, fps=progress.fps, metadata=facts)


def base_alone(folder: Path) -> Cascade:
    """A cascade of one stage, from a folder that training writes."""
    stage = load_stage(folder, dtype=working_dtype())
    text = SHORT_CAPTIONS
    spec = CascadeSpec(name=str(folder), stages=(stage.spec,), text=text)
    return Cascade(spec, [stage], load_encoder(text))


def watched(options: Options, rows: list[Row]) -> Iterator[tuple[str, Row, Frames]]:
    """The videos of a folder, by the prompt's number in their names."""
    assert options.videos is not None
    paths = {int(path.stem): path for path in options.videos.glob("[0-9][0-9].mp4")}
    if not paths:
        raise ValueError(f"no 00.mp4, 01.mp4, ... in {options.videos}")
    for i, row in enumerate(rows, start=options.skip):
        if i in paths:
            yield "videos", row, read_video(paths[i]).frames


def on_ground_truth(panel: Panel, rows: list[Row], size: tuple[int, ...]) -> Answers:
    """What the judges see in true clips of the same attributes."""
    format = VideoFormat(FRAMES, *size[1:], FPS)
    found = []
    for seed in range(LAYOUTS * len(rows)):
        row = rows[seed % len(rows)]
        scene = scene_for(**{field: row[field] for field in FIELDS}, seed=seed)
        found.append((row, panel(render(scene, format))))
    return found


def held_out(row: Row) -> bool:
    """Whether training showed this thing neither moving like that nor on that colour."""
    return held_out_motion(row["concept"], row["motion"]) or held_out_colour(
        row["concept"], row["background"]
    )


GROUPS: dict[str, Callable[[Row], bool]] = {
    "all": lambda row: True,
    "held-out pairs": held_out,
    "other pairs": lambda row: not held_out(row),
    **{style: lambda row, style=style: row["style"] == style for style in STYLES},
    **{motion: lambda row, motion=motion: row["motion"] == motion for motion in MOTIONS},
}


def shares(answers: Answers) -> dict[str, dict[str, tuple[int, int]]]:
    """(right, of) for every group of prompts and every fact; empty groups left out."""
    result = {}
    for group, belongs in GROUPS.items():
        rows = [(asked, seen) for asked, seen in answers if belongs(asked)]
        if rows:
            result[group] = {
                fact: (sum(asked[fact] == seen[fact] for asked, seen in rows), len(rows))
                for fact in FACTS
            }
    return result


def table(answers: Answers, truth: Answers) -> str:
    """Every group's shares in per cent, the judges' own on ground truth last."""
    head = f"{'right, in %':26}" + "".join(f"{fact:>26}" for fact in FACTS)
    rows = {**shares(answers), "judges on ground truth": shares(truth)["all"]}
    lines = [
        f"{group:26}" + "".join(f"{percent(*found[fact]):>26}" for fact in FACTS)
        for group, found in rows.items()
    ]
    return "\n".join([head, *lines])


def small(clip: Frames) -> Frames:
    """A few frames of a clip for the contact sheet, no higher than its cells."""
    frames = clip[torch.linspace(0, len(clip) - 1, SHEET_COLUMNS).round().long()]
    height, width = clip.shape[-2:]
    if height <= SHEET_HEIGHT:
        return frames
    width = round(width * SHEET_HEIGHT / height)
    return to_uint8(resize(to_float(frames)[None], SHEET_HEIGHT, width))[0]


def save(options: Options, results: dict, shown: dict[str, list[Frames]]) -> None:
    """result.json and a contact sheet of every stage that was judged."""
    facts = {
        "options": {name: str(value) for name, value in asdict(options).items()},
        "stages": results,
    }
    with replacing(options.out / "result.json") as path:
        path.write_text(json.dumps(facts, indent=1) + "\n")
    for stage, clips in shown.items():
        scale = max(1, SHEET_HEIGHT // 2 // clips[0].shape[-2])
        sheet = contact_sheet(clips, columns=SHEET_COLUMNS, scale=scale)
        write_png(options.out / f"{stage}.png", sheet)
    print(f"\n{options.out}/result.json and a contact sheet a stage")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
