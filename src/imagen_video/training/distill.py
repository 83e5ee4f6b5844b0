"""A stage distilled to few steps without guidance, round after round (paper section 8)."""

import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch

from imagen_video.cascade import Cascade
from imagen_video.diffusion.objective import Weighting
from imagen_video.files import replacing
from imagen_video.index import SPEC, load_spec
from imagen_video.lowres import low_from_truth
from imagen_video.pictures import contact_sheet, write_png
from imagen_video.spec import CascadeSpec, StageSpec, TrainSpec
from imagen_video.spec_json import to_json
from imagen_video.training.checkpoint import facts_of, latest
from imagen_video.training.job import JobSpec, encoder_of, source_of, train_stage
from imagen_video.training.lora import digest
from imagen_video.training.resume import refuse_other
from imagen_video.training.run import RunSpec
from imagen_video.training.sheets import COLUMNS, sample, what_to_show
from imagen_video.training.student import Lesson
from imagen_video.training.watch import read_log
from imagen_video.video import to_float, to_uint8
from imagen_video.weights import load_stage, plain_spec, without_side, working_dtype

ROUND, COMPARED = "round.json", "compared.png"
# A teacher's run in a comparison takes at most so many.
MOST_STEPS = 64
# Channels of a side network.
SIDE = 32
# Student steps of each round: the teacher of the first takes twice as many.
BASE_ROUNDS, UPSAMPLING_ROUNDS = (32, 16, 8), (16, 8)


@dataclass(frozen=True, kw_only=True)
class DistillSpec:
    """Guidance first where the teacher is guided, then a round for each of `rounds` (the student's
    steps, halving), then, if `stochastic`, one of overlapping steps for the stochastic sampler. If
    `direct`, guidance is learned in the first halving, from a teacher of two calls a step; if
    `guidance_only` that is all, and a network of `side` channels (SIDE unless given) beside the
    teacher learns it, at the levels of the teacher's steps, which are few already. A teacher that
    has such a network teaches without it.

    `updates` are optimizer steps a round (`guidance_updates` of the first: there is most to learn
    in it); the learning rate falls linearly to 0 in each, from that of the teacher's training
    unless given. Weights are drawn from `weights`. The loss is weighted as in the teacher's
    training, or by `weighting` without a bound ("snr_trunc" and "v" are the papers').
    """

    rounds: tuple[int, ...] = ()
    stochastic: bool = False
    direct: bool = False
    guidance_only: bool = False
    side: int | None = None
    weights: tuple[float, float] = (0.0, 15.0)
    updates: int = 1000
    guidance_updates: int | None = None
    learning_rate: float | None = None
    weighting: Weighting | None = None

    def lessons(self, teacher: StageSpec) -> list[tuple[str, Lesson]]:
        """The rounds by name. ValueError where one does not halve the one before."""
        if self.guidance_only:
            return [("guidance", self._guidance_alone(teacher))]
        if self.side is not None:
            raise ValueError("--side is of the network that --guidance-only trains: give that too")
        rounds = self.rounds or (BASE_ROUNDS if teacher.kind == "base" else UPSAMPLING_ROUNDS)
        for before, steps in pairwise(rounds):
            if 2 * steps != before:
                raise ValueError(f"rounds halve the steps, got {steps} after {before}")
        if teacher.sampler.guidance.on:
            self._refuse_other_weights(teacher)
        found = []
        if teacher.sampler.guidance.on and not teacher.unet.guided and not self.direct:
            found.append(("guidance", Lesson(weights=self.weights)))
        found += [(f"{n}-steps", Lesson(steps=n, weights=self.weights)) for n in rounds]
        if self.stochastic:
            last = Lesson(steps=rounds[-1], weights=self.weights, overlapping=True)
            found.append((f"{rounds[-1]}-stochastic", last))
        return found

    def _guidance_alone(self, teacher: StageSpec) -> Lesson:
        if self.rounds or self.stochastic or self.direct:
            raise ValueError(
                "--guidance-only has no rounds: give no --rounds, --direct, --stochastic"
            )
        guidance = teacher.sampler.guidance
        # Where there is no weight the network beside is not asked.
        self._refuse(teacher, [weight for weight in (guidance.weight, guidance.low) if weight])
        return Lesson(weights=self.weights, side=SIDE if self.side is None else self.side)

    def _refuse_other_weights(self, teacher: StageSpec) -> None:
        """ValueError where sampling asks for a weight that is not learned, before it is trained."""
        guidance = teacher.sampler.guidance
        others = [w for w in (guidance.low, 0.0 if guidance.interval else None) if w is not None]
        if teacher.unet.guided:
            teacher.refuse_unlearned(others)
        # A round of guidance alone leaves what varies over the steps to the student.
        self._refuse(
            teacher, [guidance.weight, *([] if self.direct or teacher.unet.guided else others)]
        )

    def _refuse(self, teacher: StageSpec, asked: Sequence[float]) -> None:
        least, most = self.weights
        strange = [f"{weight:g}" for weight in asked if not least <= weight <= most]
        if strange:
            raise ValueError(
                f"stage {teacher.name!r} is sampled with guidance {' and '.join(strange)}: let "
                f"--weights begin and end around that, got {least:g} {most:g}"
            )

    def train(self, teacher: TrainSpec, lesson: Lesson) -> TrainSpec:
        """How the student of a lesson trains; without captions too where its teacher did, as
        videos are enlarged without a prompt."""
        updates, rate = self.updates, self.learning_rate
        if lesson.steps is None and self.guidance_updates is not None:
            updates = self.guidance_updates
        return replace(
            teacher,
            steps=updates,
            learning_rate=teacher.learning_rate if rate is None else rate,
            warmup=min(teacher.warmup, updates // 20),
            cooldown=updates,
        )


@dataclass(frozen=True)
class Round:
    """What one round came to: its validation error against the teacher, before and after."""

    name: str
    folder: Path
    steps: int | None
    before: float
    after: float
    last: bool


def distill(
    cascade: CascadeSpec, teacher: Path, job: JobSpec, spec: DistillSpec, run: RunSpec
) -> Iterator[Round]:
    """Distil the stage in the folder `teacher`; each round into a folder of its own in `job.out`.
    The first student begins with the weights of `job.init_from`, if given, else of its teacher.

    Called again it goes on where it stopped. It ends early where `run.minutes` stop a round.
    ValueError where a folder holds another round than the one that is asked for.
    """
    first, end = plain_spec(load_spec(teacher)), math.inf
    if run.minutes is not None:
        end = time.monotonic() + 60 * run.minutes
    lessons, begin = spec.lessons(first), job.init_from or teacher
    _refuse_others(job.out, [f"{number}-{name}" for number, (name, _) in enumerate(lessons, 1)])
    for number, (name, lesson) in enumerate(lessons, start=1):
        folder = job.out / f"{number}-{name}"
        _claim(folder, lesson, teacher, job, first=number == 1)
        taught = plain_spec(load_spec(teacher))
        student = lesson.spec(taught, spec.train(first.train, lesson))
        if spec.weighting is not None:
            student = replace(student, weighting=spec.weighting, max_weight=None)
        updates = student.train.steps
        stages = (student if one.name == student.name else one for one in cascade.stages)
        if not _finished(folder, student, run):
            this = replace(job, out=folder, init_from=begin, lesson=lesson, teacher=teacher)
            left = None if end == math.inf else max(0.0, (end - time.monotonic()) / 60)
            within = replace(run, minutes=left)
            if train_stage(replace(cascade, stages=tuple(stages)), this, within) < updates:
                return
            if _first() and not (folder / SPEC).exists():
                raise ValueError(
                    f"{folder}: the student's validation loss is not finite: give a lower "
                    "--learning-rate, and another --out"
                )
        if _first() and not (folder / COMPARED).exists():
            compare(teacher, folder, lesson, cascade, job, run)
        before, *_, after = _errors(folder)
        yield Round(name, folder, lesson.steps, before, after, number == len(lessons))
        teacher = begin = folder


def _claim(folder: Path, lesson: Lesson, teacher: Path, job: JobSpec, *, first: bool) -> None:
    """Say in the folder which round it is for."""
    facts = {"lesson": asdict(lesson), "teacher": str(teacher.resolve())}
    facts["weights"] = digest(teacher)  # in no checkpoint, and read again when a run goes on
    if job.previous is not None:
        facts |= {"previous": str(job.previous.resolve()), "shown": digest(job.previous)}
    if first and job.init_from is not None:
        facts["init_from"] = str(job.init_from.resolve())
    text = json.dumps(facts, indent=1) + "\n"
    held = (folder / ROUND).read_text() if (folder / ROUND).exists() else None
    if held not in (None, text) and latest(folder) is not None:
        raise ValueError(f"{folder} holds another round ({folder / ROUND}): give another --out")
    if _first() and held != text:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / ROUND) as path:
            path.write_text(text)


def _first() -> bool:
    """Whether this is the one of torchrun's processes that writes."""
    return os.environ.get("RANK", "0") == "0"


def _refuse_others(out: Path, rounds: Sequence[str]) -> None:
    """ValueError where `out` holds rounds that are none of these: its cascade is of the last."""
    begun = {path.parent.name for path in out.glob(f"*/{ROUND}") if latest(path.parent)}
    if others := begun - set(rounds):
        raise ValueError(
            f"{out} holds {', '.join(sorted(others))}, none of the rounds {', '.join(rounds)}: "
            "give another --out"
        )


def _finished(folder: Path, student: StageSpec, run: RunSpec) -> bool:
    """Whether a round has taken its updates; ValueError where it was another student's."""
    found = latest(folder)
    if found is None or (facts := facts_of(found))["step"] < student.train.steps:
        return False
    refuse_other(folder, facts, facts | {"seed": run.seed, "spec": to_json(student)})
    return True


def _errors(folder: Path) -> list[float]:
    """The validation errors of a round, the first before it began."""
    return [line["validation"] for line in read_log(folder) if "validation" in line]


def compare(
    teacher: Path, student: Path, lesson: Lesson, cascade: CascadeSpec, job: JobSpec, run: RunSpec
) -> None:
    """Draw what both make of the same prompts or clips and noise, the teacher's row first, in the
    steps that it taught in (of a long run MOST_STEPS)."""
    device = torch.device(job.device)
    stages = [load_stage(folder, dtype=working_dtype(device)) for folder in (teacher, student)]
    stages[0] = without_side(stages[0])
    spec, encoder = stages[1].spec, encoder_of(cascade.text, run, device)
    stickers, held_out = job.data == ("stickers",), source_of(job, run, "test")
    shown = what_to_show(spec, held_out, stickers=stickers, workers=run.workers)
    asked: list[tuple[str, torch.Tensor | None]] = [(prompt, None) for prompt in shown.prompts]
    asked += [(text, low_from_truth(to_float(clip)[None], spec)) for clip, text in shown.clips]
    rows, own = [], [stage.spec.sampler.num_steps for stage in stages]
    taken = [min(MOST_STEPS, steps) for steps in (lesson.its_steps or own[0], own[1])]
    for prompt, low in asked:
        for stage, steps in zip(stages, taken, strict=True):
            stage.unet.to(device)
            with torch.inference_mode():
                made = sample(stage, encoder, [prompt], low=low, steps=steps)
            rows.append(to_uint8(made)[0])
    scale = max(1, 120 // rows[0].shape[-2])
    write_png(student / COMPARED, contact_sheet(rows, columns=COLUMNS, scale=scale))


def put_in_place(cascade: str, student: Path, out: Path) -> None:
    """Save a cascade with a student in the place of its teacher."""
    if not _first():
        return
    whole = Cascade.from_pretrained(cascade).with_stages(load_stage(student))
    whole.save_pretrained(out, dtype=torch.bfloat16)


def as_table(rounds: Sequence[Round]) -> str:
    """The rounds with the student's error against what its teacher does, before and after."""
    lines = [f"{'round':16}{'steps':>6}{'error before':>14}{'after':>10}  folder"]
    for row in rounds:
        errors = f"{row.before:>14.5f}{row.after:>10.5f}"
        lines.append(f"{row.name:16}{row.steps or '':>6}{errors}  {row.folder}")
    return "\n".join(lines)
