"""Students of mini, and the paper's table of guidance and distillation (its Table 1) at our scale.

    python runs/distilled.py train                      # every student of both guidances; goes on
    python runs/distilled.py measure                    # 256 videos a row, to the end of SSR-1
    python runs/distilled.py report                     # the table of what is measured

Only stages that are guided or sampled in more than 8 steps need students: the base, TSR-1 and
SSR-1. A student that has learned guidance serves both guidances; what oscillates is absorbed in the
first round that halves the steps. Rows are compared over the same prompts and seeds: a difference
is that to the undistilled row of the same guidance, its interval from prompts drawn again.
"""

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
import tyro
from paired import Paired, Row
from torch import Tensor
from tyro.conf import Positional

from imagen_video import presets
from imagen_video.cascade import Cascade
from imagen_video.diffusion.objective import Weighting
from imagen_video.evaluation.asked import EvaluationSpec, tools_of
from imagen_video.evaluation.evaluate import evaluate
from imagen_video.evaluation.prompts import prompts_of
from imagen_video.evaluation.records import Features, Record
from imagen_video.evaluation.scores import stacked
from imagen_video.index import INDEX, load_spec
from imagen_video.info import describe
from imagen_video.memory import keep_freed_memory
from imagen_video.metrics.alignment import retrieved, score
from imagen_video.metrics.frechet import Moments, Target
from imagen_video.spec import GuidanceSpec, StageSpec
from imagen_video.stage import Stage
from imagen_video.training.distill import DistillSpec, distill
from imagen_video.training.job import JobSpec
from imagen_video.training.run import RunSpec
from imagen_video.weights import load_stage, save_stage

STAGES = ("base", "tsr1", "ssr1")
GUIDANCES = ("constant", "oscillating")
DISTILLED = {"undistilled": (), "SR distilled": STAGES[1:], "all distilled": STAGES}
WEIGHTS = (0.0, 6.0)
"""Students are told weights from this range: mini is guided by 3."""
REFERENCE, GUIDED, STUDENT = "reference.safetensors", "guided", "student"


@dataclass
class Options:
    """Distil mini, and measure what that costs and saves."""

    do: Positional[Literal["train", "measure", "report"]]
    out: Path = Path("out/distilled")
    model: str = "mini"
    guidance: tuple[Literal["constant", "oscillating"], ...] = GUIDANCES
    stages: tuple[Literal["base", "tsr1", "ssr1"], ...] = STAGES
    rows: tuple[str, ...] = tuple(DISTILLED)
    """Measure these; when the first is done, several programs can measure different ones."""
    rounds: tuple[int, ...] = ()
    """Steps of the students, default as of distil."""
    updates: int = 500
    """Optimizer steps a round."""
    guidance_updates: int | None = None
    """Of the round that learns guidance."""
    direct: bool = False
    """No such round: guidance is learned in the first halving."""
    guidance_only: bool = False
    """No other round: guidance in the steps that mini ships with."""
    init_from: Path | None = None
    """Begin with the weights of a student."""
    batch: int = 1
    """Batches so many times those of mini's training."""
    echoes: int = 1
    """Steps that show the same batch, for devices that learn faster than stickers are drawn."""
    learning_rate: float = 3e-4
    weighting: Weighting | None = None
    """Of the loss, unbounded; None: as mini is trained."""
    minutes: float | None = None
    """Stop training a stage early."""
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
        return
    for guidance in options.guidance:
        if options.do == "train":
            for stage in options.stages:
                train(guidance, stage, options)
        else:
            for row in options.rows:
                measure(guidance, row, options)


def oscillating(guidance: GuidanceSpec, steps: int) -> GuidanceSpec:
    """Twice the weight and none in turn, after an eighth of the steps."""
    return replace(guidance, weight=2 * guidance.weight, low=0.0, constant_steps=steps // 8)


def teacher(guidance: str, options: Options) -> Path:
    """mini as it is, or with guidance that oscillates, and the batches of this training."""
    folder = options.out / "teachers" / guidance
    if not (folder / INDEX).exists():
        mini = Cascade.from_pretrained(options.model, dtype=torch.float32)
        stages = [Stage(_taught(own.spec, guidance, options), own.unet) for own in mini.stages]
        mini.with_stages(*stages).save_pretrained(folder, dtype=torch.bfloat16)
    return folder


def _taught(spec: StageSpec, guidance: str, options: Options) -> StageSpec:
    # As it was trained to be sampled, unless it is to be learned in the steps that mini ships with.
    sampler = spec.sampler
    if not options.guidance_only:
        sampler = presets.find(options.model).stage(spec.name).sampler
    train, packs = spec.train, min(1, spec.train.image_packs)
    clips = train.clips + train.image_packs - packs  # the teacher knows how things look
    train = replace(
        train,
        clips=options.batch * clips,
        image_packs=options.batch * packs,
        echoes=options.echoes,
    )
    if guidance == "oscillating" and sampler.guidance.on:
        changed = oscillating(sampler.guidance, sampler.num_steps)
        sampler = replace(sampler, guidance=changed)
    return replace(spec, train=train, sampler=sampler)


def student(guidance: str, stage: str, options: Options) -> Path:
    """Where the rounds of a stage are, and the last of them as `STUDENT`."""
    return options.out / "students" / guidance / stage


def train(guidance: str, stage: str, options: Options) -> bool:
    """Distil a stage, or go on; False where the time was not enough."""
    whole, out = teacher(guidance, options), student(guidance, stage, options)
    first = whole / stage
    wanted = _taught(presets.shipped(options.model).stage(stage), guidance, options)
    if load_spec(first).train != wanted.train:
        raise ValueError(f"{first} teaches with another --batch or --echoes: give another --out")
    # Who has learned guidance has not yet learned how it varies; direct rounds learn both at once.
    if guidance == "oscillating" and not options.direct:
        if not train("constant", stage, options):
            return False
        first = out / GUIDED
        if not first.exists():
            learned = student("constant", stage, options) / "1-guidance"
            spec = replace(load_spec(learned), sampler=load_spec(whole / stage).sampler)
            guided = load_stage(learned, dtype=torch.float32)
            save_stage(Stage(spec, guided.unet), first, dtype=torch.bfloat16)
    spec = DistillSpec(
        weights=WEIGHTS,
        rounds=options.rounds,
        updates=options.updates,
        guidance_updates=options.guidance_updates,
        direct=options.direct,
        guidance_only=options.guidance_only,
        learning_rate=options.learning_rate,
        weighting=options.weighting,
    )
    job = JobSpec(stage=stage, out=out, device=options.device, init_from=options.init_from)
    run = RunSpec(minutes=options.minutes, workers=options.workers)
    last = None
    for last in distill(presets.find(str(whole)), first, job, spec, run):
        print(guidance, stage, last.name, f"{last.before:.5f} -> {last.after:.5f}", flush=True)
    if last is None or not last.last:
        return False
    save_stage(load_stage(last.folder, dtype=torch.float32), out / STUDENT, dtype=torch.bfloat16)
    return True


def row_folder(guidance: str, row: str, options: Options) -> Path:
    """Where a row's evaluation is."""
    return options.out / f"{options.until}-{guidance}-{row}".replace(" ", "-")


def cascade_of(guidance: str, row: str, options: Options) -> Path:
    """The folder of a row's cascade, made of the teacher's and the students that there are."""
    whole = Cascade.from_pretrained(teacher(guidance, options), dtype=torch.float32)
    students = []
    for name in DISTILLED[row]:
        found = student(guidance, name, options) / STUDENT
        if not found.exists():
            raise ValueError(f"no student of {name} with {guidance} guidance at {found}: train it")
        students.append(load_stage(found, dtype=torch.float32))
    folder = options.out / "cascades" / f"{guidance}-{row}".replace(" ", "-")
    whole.with_stages(*students).save_pretrained(folder, dtype=torch.bfloat16)
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
    def texts(self) -> list[str]:
        return [prompt.text for prompt in prompts_of("stickers", self.options.count)]

    @cached_property
    def captions(self) -> Tensor:
        aligner = tools_of(asked(self.options), prompts_of("stickers", self.options.count)).aligner
        assert aligner is not None, "the prompts are of the sticker world"
        return aligner.prompts(self.texts)

    @cached_property
    def paired(self) -> Paired:
        """How rows are compared: by the reference's frames and clips."""
        first = row_folder("constant", "undistilled", self.options)
        format = presets.find(self.options.model).stage(self.options.until).output
        place = first / "records" / "reference" / str(format)
        paths = sorted(place.glob("*.safetensors"))
        features = Features.of([Record.load(path) for path in paths])
        frames, clips = features.frames.flatten(0, 1), features.clips
        targets = Target(Moments.of(frames)), Target(Moments.of(clips))
        return Paired(*targets, self.options.count, self.options.seeds)

    def row(self, folder: Path, kind: str = "cascade") -> Row | None:
        """Of the samples of an evaluation, or of its true clips; None until it is finished."""
        place = folder / "records" / kind
        paths = sorted((place / self.options.until).glob("*.safetensors"))
        if len(paths) < self.options.count * self.options.seeds:
            return None
        records, flops, seconds = [Record.load(path) for path in paths], 0.0, 0.0
        own = [i % len(self.texts) for i in range(len(records))]
        if kind == "cascade":
            settings = json.loads((folder / "settings.json").read_text())
            stages = [place / name for name in settings["stages"]]
            every = [Record.load(path) for at in stages for path in at.glob("*.safetensors")]
            seconds = sum(r.facts["seconds"] for r in every) / len(records)
            name = folder.name.removeprefix(f"{self.options.until}-")
            whole = presets.find(str(self.options.out / "cascades" / name))
            flops = float(sum(r.flops for r in describe(whole) if r.stage in settings["stages"]))
        fits = [score(r.aligned, self.captions[i]) for r, i in zip(records, own, strict=True)]
        hits = [retrieved(r.aligned, self.captions, i) for r, i in zip(records, own, strict=True)]
        return Row(
            torch.tensor(fits, dtype=torch.float64),
            100 * torch.tensor(hits, dtype=torch.float64),
            stacked(records),
            Features.of(records).clips,
            seconds,
            flops,
        )


def report(options: Options) -> str:
    """The table as Markdown, of the rows that are measured; also into table.md."""
    table, lines = Table(options), []
    for guidance in options.guidance:
        teacher = None
        for name in DISTILLED:
            row = table.row(row_folder(guidance, name, options))
            if row is not None:
                lines.append(table.paired.line(f"{guidance}, {name}", row, teacher))
            if name == "undistilled":
                teacher = row
    truth = table.row(row_folder("constant", "undistilled", options), "truth")
    if truth is not None:
        lines.append(table.paired.line("ground truth", truth, None))
    head = ["", "fit (proxy)", "R-precision, %", "FID (proxy)", "FVD (proxy)", "s", "TFLOP"]
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *lines))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "table.md").write_text(text + "\n")
    return text


if __name__ == "__main__":
    main()
