"""mini's student, and the paper's table of guidance and distillation (its Table 1) at our scale.

    python runs/distilled.py train                      # the network beside the base; goes on
    python runs/distilled.py measure                    # 256 videos a row, to the end of SSR-1
    python runs/distilled.py report                     # the table of what is measured

Undistilled, the base takes 32 steps of two calls and TSR-1 and SSR-1 take 16, which equal 256 and
128 (docs/results.md, "In how few steps"). In few steps the two are sampled once, as mini is, and
the base in 8 calls, with a student: its side network answers for constant and for oscillating
weights alike. Rows are compared over the same prompts and seeds: a difference is that to the
undistilled row of the same guidance, its interval from prompts drawn again.
"""

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
import tyro
from paired import Paired, Row, as_markdown, captions_of, records_in
from torch import Tensor
from tyro.conf import Positional

from imagen_video import presets
from imagen_video.cascade import Cascade
from imagen_video.evaluation.asked import EvaluationSpec
from imagen_video.evaluation.evaluate import evaluate
from imagen_video.index import INDEX, load_spec
from imagen_video.info import describe
from imagen_video.memory import keep_freed_memory
from imagen_video.sampling import SampleSpec, override
from imagen_video.spec import GuidanceSpec
from imagen_video.stage import Stage
from imagen_video.training.distill import DistillSpec, distill
from imagen_video.training.job import JobSpec
from imagen_video.training.run import RunSpec
from imagen_video.weights import load_stage, save_stage, without_side

LONG = {"base": 32, "tsr1": 16, "ssr1": 16}
"""Steps of what is not distilled."""
GUIDANCES = ("constant", "oscillating")
ROWS = {"undistilled": (), "SR in few steps": ("tsr1", "ssr1"), "all in few steps": tuple(LONG)}
"""The stages that are sampled in few steps."""
REFERENCE, STUDENT = "reference.safetensors", "student"


@dataclass
class Options:
    """Distil mini's base, and measure what that costs and saves."""

    do: Positional[Literal["train", "measure", "report"]]
    out: Path = Path("out/distilled")
    model: str = "mini"
    guidance: tuple[Literal["constant", "oscillating"], ...] = GUIDANCES
    rows: tuple[str, ...] = tuple(ROWS)
    """Measure these; when the first is done, several programs can measure different ones."""
    updates: int = 2000
    """Optimizer steps."""
    batch: int = 1
    """Batches so many times those of mini's training."""
    echoes: int = 1
    """Steps that show the same batch, for devices that learn faster than stickers are drawn."""
    learning_rate: float = 3e-3
    minutes: float | None = None
    """Stop training early."""
    count: int = 64
    seeds: int = 4
    until: str = "ssr1"
    device: str = "cpu"
    threads: int | None = None
    workers: int = 1


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    keep_freed_memory()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.do == "report":
        print(report(options))
    elif options.do == "train":
        train(options)
    else:
        for guidance in options.guidance:
            for row in options.rows:
                measure(guidance, row, options)


def teacher(options: Options) -> Path:
    """mini as it was before it had a student, with the batches of this training: it knows how
    things look, and videos take the places of packs of stills."""
    folder = options.out / "teacher"
    own = presets.shipped(options.model).stage("base").train
    packs = min(1, own.image_packs)
    batches = replace(
        own,
        clips=options.batch * (own.clips + own.image_packs - packs),
        image_packs=options.batch * packs,
        echoes=options.echoes,
    )
    if not (folder / INDEX).exists():
        mini = Cascade.from_pretrained(options.model, dtype=torch.float32)
        base = without_side(mini.stages[0])
        stage = Stage(replace(base.spec, train=batches), base.unet)
        mini.with_stages(stage).save_pretrained(folder, dtype=torch.bfloat16)
    elif load_spec(folder / "base").train != batches:
        raise ValueError(f"{folder} teaches with another --batch or --echoes: give another --out")
    return folder


def train(options: Options) -> None:
    """Distil the base, or go on."""
    whole = teacher(options)
    spec = DistillSpec(
        guidance_only=True, updates=options.updates, learning_rate=options.learning_rate
    )
    job = JobSpec(stage="base", out=options.out / "rounds", device=options.device)
    run = RunSpec(minutes=options.minutes, workers=options.workers)
    for done in distill(presets.find(str(whole)), whole / "base", job, spec, run):
        print(done.name, f"{done.before:.5f} -> {done.after:.5f}", flush=True)
        found = load_stage(done.folder, dtype=torch.float32)
        as_trained = presets.shipped(options.model).stage("base").train
        save_stage(
            Stage(replace(found.spec, train=as_trained), found.unet),
            options.out / STUDENT,
            dtype=torch.bfloat16,
        )


def oscillating(guidance: GuidanceSpec, steps: int) -> GuidanceSpec:
    """Twice the weight and none in turn, after an eighth of the steps."""
    return replace(guidance, weight=2 * guidance.weight, low=0.0, constant_steps=steps // 8)


def sampled(stage: Stage, guidance: str, steps: int) -> Stage:
    """The stage in so many steps, under this kind of guidance."""
    sampler = override(stage.spec.sampler, SampleSpec(steps=steps))
    if guidance == "oscillating" and sampler.guidance.on:
        sampler = replace(sampler, guidance=oscillating(sampler.guidance, steps))
    return Stage(replace(stage.spec, sampler=sampler), stage.unet)


def row_folder(guidance: str, row: str, options: Options) -> Path:
    """Where a row's evaluation is."""
    return options.out / f"{options.until}-{guidance}-{row}".replace(" ", "-")


def cascade_of(guidance: str, row: str, options: Options) -> Path:
    """The folder of a row's cascade; of a student if one is trained here, else of mini's own."""
    mini = Cascade.from_pretrained(options.model, dtype=torch.float32)
    stages = []
    for own in mini.stages:
        steps = own.spec.sampler.num_steps
        if own.spec.name in LONG and own.spec.name not in ROWS[row]:
            own, steps = without_side(own), LONG[own.spec.name]
        elif own.spec.name == "base":
            if (options.out / STUDENT).exists():
                own = load_stage(options.out / STUDENT, dtype=torch.float32)
            if own.spec.unet.side is None:
                raise ValueError(f"no student at {options.out / STUDENT}: train it")
        stages.append(sampled(own, guidance, steps))
    folder = options.out / "cascades" / f"{guidance}-{row}".replace(" ", "-")
    mini.with_stages(*stages).save_pretrained(folder, dtype=torch.bfloat16)
    return folder


def asked(options: Options) -> EvaluationSpec:
    return EvaluationSpec(
        count=options.count, seeds=options.seeds, own=0, until=options.until, device=options.device
    )


def measure(guidance: str, row: str, options: Options) -> None:
    """Evaluate a row; true clips are looked at for the first one."""
    spec, first = asked(options), row_folder("constant", "undistilled", options)
    if (guidance, row) != ("constant", "undistilled"):
        if not (first / REFERENCE).exists():
            raise ValueError(f"no true clips in {first}: measure the row 'undistilled' first")
        spec = replace(spec, reference=(str(first / REFERENCE),))
    evaluate(cascade_of(guidance, row, options), spec, row_folder(guidance, row, options))


@dataclass
class Table:
    """Rows over the same prompts, seed after seed."""

    options: Options

    @cached_property
    def captions(self) -> Tensor:
        return captions_of(self.options.count)

    @cached_property
    def paired(self) -> Paired:
        """How rows are compared: by the reference's frames and clips."""
        first = row_folder("constant", "undistilled", self.options)
        format = presets.find(self.options.model).stage(self.options.until).output
        truth = first / "records" / "reference" / str(format)
        return Paired.to(truth, self.options.count, self.options.seeds)

    def row(self, folder: Path, kind: str = "cascade") -> Row | None:
        """Of the samples of an evaluation, or of its true clips; None until it is finished."""
        place = folder / "records" / kind
        records = records_in(place / self.options.until)
        if len(records) < self.options.count * self.options.seeds:
            return None
        row = Row.of(records, self.captions)
        if kind != "cascade":
            return row
        stages = json.loads((folder / "settings.json").read_text())["stages"]
        every = [record for name in stages for record in records_in(place / name)]
        seconds = sum(record.facts["seconds"] for record in every) / len(records)
        name = folder.name.removeprefix(f"{self.options.until}-")
        whole = presets.find(str(self.options.out / "cascades" / name))
        flops = float(sum(own.flops for own in describe(whole) if own.stage in stages))
        return replace(row, seconds=seconds, flops=flops)


def report(options: Options) -> str:
    """The table as Markdown, of the rows that are measured; also into table.md."""
    table, lines = Table(options), []
    for guidance in options.guidance:
        teacher = None
        for name in ROWS:
            row = table.row(row_folder(guidance, name, options))
            if row is not None:
                lines.append(table.paired.line(f"{guidance}, {name}", row, teacher))
            if name == "undistilled":
                teacher = row
    truth = table.row(row_folder("constant", "undistilled", options), "truth")
    if truth is not None:
        lines.append(table.paired.line("ground truth", truth, None))
    text = as_markdown(lines)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "table.md").write_text(text + "\n")
    return text


if __name__ == "__main__":
    main()
