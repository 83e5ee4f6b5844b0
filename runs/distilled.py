"""mini's student, and the paper's table of guidance and distillation (its Table 1) at our scale.

    python runs/distilled.py train                      # the network beside the base; goes on
    python runs/distilled.py measure                    # 256 videos a row, to the end of SSR-1;
                                                        # processes of torchrun share them
    python runs/distilled.py time                       # every row's cascade, nothing beside
    python runs/distilled.py report                     # the table of what is measured

Undistilled, the base takes 32 steps, of two calls where it is guided, and TSR-1 and SSR-1 take 16,
which equal 256 and 128 (docs/results.md, "In how few steps"); these two are not guided, as guidance
makes them worse. In few steps they are sampled once, as mini is and by the same weights, from the
same videos of the base; and the base in 8 calls, with a student: its side network answers for
constant and for oscillating weights alike. Rows are compared over the same prompts and seeds: a
difference is that to the undistilled row of the same guidance, its interval from prompts drawn
again.
"""

import json
import time
from dataclasses import asdict, dataclass, replace
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
from imagen_video.distributed import Ranks, started
from imagen_video.evaluation.asked import EvaluationSpec, counts_of, tools_of
from imagen_video.evaluation.prompts import Prompt, prompts_of
from imagen_video.evaluation.records import settings_of
from imagen_video.evaluation.reference import StickerReference
from imagen_video.evaluation.run import Column, Evaluation, computed_by
from imagen_video.evaluation.sweep import Before
from imagen_video.evaluation.upsampled import Small
from imagen_video.files import replacing
from imagen_video.index import INDEX, load_spec
from imagen_video.info import describe
from imagen_video.memory import keep_freed_memory
from imagen_video.metrics.features import digest_of
from imagen_video.sampling import SampleSpec, override
from imagen_video.spec import GuidanceSpec
from imagen_video.stage import Stage
from imagen_video.training.distill import DistillSpec, distill, put_in_place
from imagen_video.training.job import JobSpec
from imagen_video.training.run import RunSpec
from imagen_video.weights import load_stage, save_stage, without_side, working_dtype

LONG = {"base": 32, "tsr1": 16, "ssr1": 16}
"""Steps of what is not distilled."""
GUIDANCES = ("constant", "oscillating")
ROWS = {"undistilled": (), "SR in few steps": ("tsr1", "ssr1"), "all in few steps": tuple(LONG)}
"""The stages that are sampled in few steps."""
STUDENT, TIMES = "student", "times.json"


@dataclass
class Options:
    """Distil mini's base, and measure what that costs and saves."""

    do: Positional[Literal["train", "measure", "time", "report"]]
    out: Path = Path("out/distilled")
    model: str = "mini"
    guidance: tuple[Literal["constant", "oscillating"], ...] = GUIDANCES
    rows: tuple[str, ...] = tuple(ROWS)
    """Measure these."""
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
    elif options.do == "time":
        timed(options)
    else:
        with started(options.device) as ranks:
            options.device = str(ranks.device)
            for guidance in options.guidance:
                for row in options.rows:
                    measure(guidance, row, options, ranks)


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
        put_in_place(options.model, options.out / STUDENT, options.out / "cascade")


def oscillating(guidance: GuidanceSpec, steps: int) -> GuidanceSpec:
    """Twice the weight and none in turn, after a quarter of the steps: the first of few lie above
    the interval of guidance."""
    return replace(guidance, weight=2 * guidance.weight, low=0.0, constant_steps=steps // 4)


def sampled(stage: Stage, guidance: str, steps: int) -> Stage:
    """The stage in so many steps, under this kind of guidance."""
    sampler = override(stage.spec.sampler, SampleSpec(steps=steps))
    if guidance == "oscillating" and sampler.guidance.on:
        sampler = replace(sampler, guidance=oscillating(sampler.guidance, steps))
    return Stage(replace(stage.spec, sampler=sampler), stage.unet)


def row_folder(guidance: str, row: str, options: Options) -> Path:
    """Where a row's evaluation is."""
    return options.out / f"{options.until}-{options.count}-{guidance}-{row}".replace(" ", "-")


def truth_folder(options: Options) -> Path:
    """Where true clips are."""
    return options.out / f"{options.until}-{options.count}-true"


def cascade_of(guidance: str, row: str, options: Options) -> Cascade:
    """A row's cascade; with the student that is trained here if there is one, else mini's own."""
    mini = Cascade.from_pretrained(options.model, device=options.device)
    trained, stages = options.out / STUDENT, []
    for own in mini.stages:
        steps = own.spec.sampler.num_steps
        if own.spec.name in LONG and own.spec.name not in ROWS[row]:
            own, steps = without_side(own), LONG[own.spec.name]
        elif own.spec.name == "base":
            if trained.exists():
                dtype = working_dtype(options.device)
                own = load_stage(trained, device=options.device, dtype=dtype)
            if own.spec.unet.side is None:
                raise ValueError(f"no student at {trained}: train it")
        stages.append(sampled(own, guidance, steps))
    return mini.with_stages(*stages)


def measure(guidance: str, row: str, options: Options, ranks: Ranks) -> None:
    """Sample a row and look at it; true clips, and what one base makes, are there once for all."""
    spec = EvaluationSpec(count=options.count, seeds=options.seeds, device=options.device)
    cascade = cascade_of(guidance, row, options)
    prompts = prompts_of("stickers", options.count)
    tools, reference = tools_of(spec, prompts), StickerReference(prompts)
    base, *stages = cascade.plan(SampleSpec(until=options.until))
    start, final = stages[0].spec, stages[-1].spec
    evaluation = Evaluation(
        columns=[Column(final.name, final.output)],
        prompts=prompts,
        counts=counts_of(prompts, spec, reference, own=False),
        tools=tools,
        reference=reference,
        out=row_folder(guidance, row, options),
        shared=truth_folder(options),
        ranks=ranks,
    )
    told = {s.spec.name: [digest_of(s.unet), asdict(s.spec.sampler)] for s in (base, *stages)}
    facts = {"stages": told, "computed": computed_by(cascade), "seed": spec.seed}
    evaluation.settle(settings_of(tools, **facts))
    before = Before(cascade, start.name, spec, options.out)

    def wanted(index: int) -> SampleSpec:
        return SampleSpec(seed=spec.seed + index, start=start.name, until=final.name)

    def low(index: int) -> tuple[Prompt, Small, None]:
        prompt = evaluation.prompt(index)
        return prompt, before(prompt, index), None

    evaluation.make_references()
    evaluation.make_samples(cascade, wanted, low)
    ranks.wait()


def timed(options: Options) -> None:
    """Seconds a video of every row: the least of a few, after one that warms up."""
    found = {}
    for guidance in GUIDANCES:
        for row in ROWS:
            cascade, times = cascade_of(guidance, row, options), []
            for prompt in prompts_of("stickers", 4):
                start = time.monotonic()
                cascade(prompt.text, until=options.until)
                times.append(time.monotonic() - start)
            found[f"{guidance}, {row}"] = min(times[1:])
    with replacing(options.out / TIMES) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n")


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
        format = presets.find(self.options.model).stage(self.options.until).output
        truth = truth_folder(self.options) / "records" / "reference" / str(format)
        return Paired.to(truth, self.options.count, self.options.seeds)

    def of(self, guidance: str, name: str) -> Row | None:
        """Of a row's samples; None until it is finished."""
        folder = row_folder(guidance, name, self.options)
        row = self.found(folder / "records" / "cascade" / self.options.until)
        if row is None:
            return None
        spec = cascade_of(guidance, name, self.options).spec
        done = describe(spec)[: spec.index(self.options.until) + 1]
        times = self.options.out / TIMES
        seconds = json.loads(times.read_text())[f"{guidance}, {name}"] if times.exists() else 0.0
        return replace(row, seconds=seconds, flops=float(sum(stage.flops for stage in done)))

    def found(self, folder: Path) -> Row | None:
        """Of the records of a folder; None where some are missing."""
        records = records_in(folder)
        whole = len(records) == self.options.count * self.options.seeds
        return Row.of(records, self.captions) if whole else None


def report(options: Options) -> str:
    """The table as Markdown, of the rows that are measured; also into table.md."""
    table, lines = Table(options), []
    for guidance in options.guidance:
        teacher = None
        for name in ROWS:
            row = table.of(guidance, name)
            if row is not None:
                lines.append(table.paired.line(f"{guidance}, {name}", row, teacher))
            if name == "undistilled":
                teacher = row
    truth = table.found(truth_folder(options) / "records" / "truth" / options.until)
    if truth is not None:
        lines.append(table.paired.line("ground truth", truth, None))
    text = as_markdown(lines)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "table.md").write_text(text + "\n")
    return text


if __name__ == "__main__":
    main()
