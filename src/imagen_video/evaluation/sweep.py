"""One stage sampled in many ways: which guidance, steps, move and augmentation serve it best.

A base is sampled from noise, an upsampling stage from true low-resolution video or from what the
stages before it make, always with the same prompts and seeds. What is made is recorded as in any
evaluation, so a sweep goes on after a kill, and true clips are looked at once.
"""

import hashlib
import itertools
import json
import math
import re
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from imagen_video.cascade import Cascade
from imagen_video.diffusion.guidance import guidance_weights
from imagen_video.distributed import Ranks, started
from imagen_video.evaluation.asked import (
    EvaluationSpec,
    asked_of,
    counts_of,
    named,
    reference_of,
    tools_of,
)
from imagen_video.evaluation.prompts import Prompt, prompts_of
from imagen_video.evaluation.ranking import Row, draw, in_order
from imagen_video.evaluation.records import Tools, settings_of
from imagen_video.evaluation.reference import Reference
from imagen_video.evaluation.report import Report, report_of
from imagen_video.evaluation.run import Column, Evaluation, computed_by
from imagen_video.evaluation.scores import (
    LOWER,
    Measure,
    by_halves,
    features_for,
    further,
    together,
)
from imagen_video.evaluation.upsampled import Small, made_small
from imagen_video.files import replacing
from imagen_video.lowres import level_at
from imagen_video.metrics.features import digest_of
from imagen_video.metrics.frechet import Moments, Target
from imagen_video.sampling import SampleSpec, override
from imagen_video.spec import GuidanceSpec, SamplerSpec, StageSpec
from imagen_video.stage import sampling_schedule
from imagen_video.video import Frames

Move = Literal["ddim", "ancestral", "stochastic", "dpmpp_2m"]
NUMBER = r"\d+(?:\.\d*)?"
GUIDANCE = re.compile(
    rf"(?P<weight>{NUMBER})(?:/(?P<low>{NUMBER}):(?P<constant>\d+))?"
    rf"(?:\[(?P<least>-?{NUMBER}),(?P<most>-?{NUMBER})\])?"
)


@dataclass(frozen=True, kw_only=True)
class SweepSpec:
    """What is tried: every combination. Empty is what the stage has. `aug_snr` is the
    signal-to-noise ratio of the noise on the low-resolution video, as the paper gives it: worth
    something `from_cascade` alone, as true videos have nothing that noise should hide."""

    stage: str
    guidance: tuple[str, ...] = ()
    steps: tuple[int, ...] = ()
    moves: tuple[Move, ...] = ()
    shifts: tuple[float, ...] = ()
    aug_snr: tuple[float, ...] = ()
    from_cascade: bool = False


def guidance_of(text: str, within: tuple[float, float] | None = None) -> GuidanceSpec:
    """`4`: constant. `15/1:10`: 15 for ten steps, then 1 and 15 in turn. `4[-3,5]`: only where
    log-SNR lies between, not `within`. ValueError for anything else."""
    found = GUIDANCE.fullmatch(text)
    if found is None:
        raise ValueError(
            f"guidance {text!r} is none of 4 (constant), 15/1:10 (high/low:constant steps) and "
            "4[-3,5] (only within these log-SNRs)"
        )
    low, least, most = found["low"], found["least"], found["most"]
    return GuidanceSpec(
        weight=float(found["weight"]),
        low=None if low is None else float(low),
        constant_steps=int(found["constant"] or 0),
        interval=within if least is None else (float(least), float(most)),
    )


def samplers(stage: StageSpec, spec: SweepSpec) -> Iterator[tuple[str, str, SamplerSpec]]:
    """Name, name of the curve (all but the guidance), and sampler of every combination."""
    own = stage.sampler
    _refuse(stage, spec)
    levels = [math.log(snr) for snr in spec.aug_snr] or [own.aug_logsnr]
    for steps, move, shift, level in itertools.product(
        spec.steps or (own.num_steps,),
        spec.moves or (own.move,),
        spec.shifts or (own.logsnr_shift,),
        levels,
    ):
        curve = f"{move}, {steps} steps" + (f", shift {shift:g}" if spec.shifts else "")
        if level is not None:
            curve += f", aug SNR {math.exp(level):.3g}"
        for text in spec.guidance or ("",):
            # The constant part of the stage's own guidance keeps its share of the steps.
            sampler = override(own, SampleSpec(steps=steps))
            guidance = guidance_of(text, sampler.guidance.interval) if text else sampler.guidance
            if text and guidance.low is not None and guidance.constant_steps >= steps:
                raise ValueError(
                    f"guidance {text!r} is constant for all of {steps} steps: let fewer of them be"
                )
            changed = {"move": move, "logsnr_shift": shift, "aug_logsnr": level}
            sampler = replace(sampler, guidance=guidance, **changed)
            schedule = sampling_schedule(stage, sampler)
            stage.refuse_unlearned(guidance_weights(guidance, steps, schedule))
            kind = "" if guidance.low is None else ", oscillating"
            if guidance.interval:
                kind += ", within {:g} and {:g}".format(*guidance.interval)
            yield f"{curve}, guidance {text or 'its own'}", curve + kind, sampler


def _refuse(stage: StageSpec, spec: SweepSpec) -> None:
    """ValueError for what this stage has not."""
    if stage.kind == "base" and (spec.aug_snr or spec.from_cascade):
        raise ValueError(f"{stage.name!r} starts from noise: no --aug-snr and no --from-cascade")
    least = level_at(torch.ones(1), stage).exp().item()
    for snr in spec.aug_snr:
        if not least / 1.01 < snr < math.inf:  # it is shown with three digits
            told = f"{stage.name!r} was trained with signal-to-noise ratios from {least:.3g} on"
            raise ValueError(f"{told}: give --aug-snr of these, got {snr:g}")


@dataclass(frozen=True)
class Tried:
    """What one way of sampling was found to be, with its clips' features by prompt."""

    report: Report
    target: Target
    clips: Tensor

    def behind(self, best: "Tried", seed: int) -> Measure:
        """By how much its FVD is above that of the best, the same prompts drawn of both."""
        found = further(self.target, self.clips, best.clips)
        spread: Any = by_halves(found, len(self.clips), seed, fewest=2)
        fvd = next(m for m in self.report.sections[0].measures if m.name == "FVD")
        return Measure(name="FVD", of=fvd.of, better=LOWER, proxy=fvd.proxy, **spread)


@dataclass(frozen=True)
class Common:
    """What all combinations are asked, looked at with and compared with."""

    prompts: list[Prompt]
    tools: Tools
    reference: Reference | Path
    alone: bool
    """From true clips, not from what the stages before make."""


def sweep(model: str, spec: SweepSpec, asked: EvaluationSpec, out: Path) -> list[Row]:
    """Evaluate every combination into `out`: sweep.json, curve.png, and a folder each, which a
    sweep of others that has it too does not make again. Rows come in order of quality, the best
    first. Empty on all but the first of many processes."""
    with started(asked.device) as ranks:
        cascade = Cascade.from_pretrained(model, device=ranks.device)
        stage = cascade.spec.stage(spec.stage)
        alone, prompts = not spec.from_cascade, prompts_of(asked.prompts, asked.count)
        reference = reference_of(asked.reference, prompts, out)
        if isinstance(reference, Path) and stage.kind != "base" and alone:
            raise ValueError(
                f"{stage.name!r} needs true clips to start from: {reference} has features only"
            )
        common = Common(prompts, tools_of(asked, prompts), reference, alone)
        rows, found = [], {}
        for name, curve, sampler in list(samplers(stage, spec)):
            trial = cascade.with_sampler(stage.name, sampler)
            facts = json.dumps(asdict(sampler), sort_keys=True)
            place = out / digest_of_text(facts + "from cascade" * spec.from_cascade)
            made = _tried(trial, stage.name, asked, common, out=place, ranks=ranks)
            if made:
                report, found[name] = made.report, made
                told: Any = {"notes": report.notes, "settings": report.settings}
                section = report.sections[0]
                rows.append(Row(name=name, curve=curve, sampler=sampler, section=section, **told))
        if rows:
            rows = in_order(rows)
            best, *others = rows
            first = found[best.name]
            others = [replace(r, behind=found[r.name].behind(first, asked.seed)) for r in others]
            rows = [best, *others]
            facts = [asdict(row) for row in rows]
            with replacing(out / "sweep.json") as path:
                path.write_text(json.dumps(facts, indent=1) + "\n")
            draw(rows, out / "curve.png")
        return rows


def _tried(
    cascade: Cascade,
    name: str,
    asked: EvaluationSpec,
    common: Common,
    *,
    out: Path,
    ranks: Ranks,
) -> Tried | None:
    stage = cascade.spec.stage(name)
    prompts, tools = common.prompts, common.tools
    reference, alone = common.reference, common.alone
    counts = counts_of(prompts, asked, reference, own=False)
    compared = settings_of(
        tools,
        counts=asdict(counts),
        asked=asked_of(prompts),
        reference=named(reference, asked.reference),
        format=str(stage.output),
    )
    evaluation = Evaluation(
        columns=[Column(name, stage.output)],
        prompts=prompts,
        counts=counts,
        tools=tools,
        reference=reference,
        out=out,
        ranks=ranks,
        shared=out.parent / f"true-{digest_of_text(json.dumps(compared, sort_keys=True))}",
    )
    settings = compared | dict(
        model=cascade.spec.name,
        weights=digest_of(cascade.stages[cascade.spec.index(name)].unet),
        sampler=asdict(stage.sampler),
        pixels="as the stage made them",
        computed=computed_by(cascade),
        counts=asdict(evaluation.counts),
        seed=asked.seed,
    )
    before = Before(cascade, name, asked, out.parent)
    if stage.kind != "base" and not alone:
        settings["before"] = before.facts
    evaluation.settle(settings)
    start = None if stage.kind == "base" else name

    def wanted(index: int) -> SampleSpec:
        return SampleSpec(seed=asked.seed + index, start=start, until=name)

    def low(index: int) -> tuple[Prompt, Small, Frames | None]:
        if not alone:
            return evaluation.prompt(index), before(evaluation.prompt(index), index), None
        assert not isinstance(reference, Path)
        place = evaluation.first_truth + index
        true = reference.clip(place, stage.output, range(stage.output.frames))
        return Prompt(true.caption, true.attributes), made_small(true.video, stage), true.video

    evaluation.make_references()
    evaluation.make_samples(cascade, wanted, low if start else None)
    ranks.wait()
    if not ranks.first:
        return None
    samples = evaluation.records("cascade", name, counts.samples)
    clips = together(features_for("FVD", samples), asked.seeds).flatten(1, 2)
    report = report_of(evaluation, settings, asked.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the report's notes have it
        target = Target(Moments.of(evaluation.features(stage.output).clips))
    return Tried(report, target, clips)


class Before:
    """What the stages before one make of a prompt, once for all ways of sampling that one."""

    def __init__(self, cascade: Cascade, name: str, asked: EvaluationSpec, out: Path):
        self.cascade, self.seed = cascade, asked.seed
        stages = cascade.stages[: cascade.spec.index(name)]
        self.until = stages[-1].spec.name if stages else ""
        self.facts = [f"{stage.spec.sampler} {digest_of(stage.unet)}" for stage in stages]
        self.folder = out / f"before-{digest_of_text(json.dumps([asked.seed, self.facts]))}"

    def __call__(self, prompt: Prompt, index: int) -> Small:
        words = digest_of_text(prompt.text)
        path = self.folder / self.until / f"{index:05}-{words}.safetensors"
        if not path.is_file():
            made = self.cascade(prompt.text, seed=self.seed + index, until=self.until)
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                save_file({"video": made.frames[0].contiguous()}, temporary)
        return load_file(path)["video"]


def digest_of_text(text: str) -> str:
    """Eight hexadecimal digits, for the name of a folder."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]
