"""One stage sampled in many ways: which guidance, steps, move and augmentation serve it best.

A base is sampled from noise, an upsampling stage from true low-resolution video, always with the
same prompts and seeds. What is made is recorded as in any evaluation, so a sweep goes on after a
kill, and true clips are looked at once.
"""

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from imagen_video.cascade import Cascade
from imagen_video.distributed import Ranks, started
from imagen_video.evaluation.asked import (
    EvaluationSpec,
    asked_of,
    counts_of,
    named,
    reference_of,
    tools_of,
)
from imagen_video.evaluation.page import EMBER, INK
from imagen_video.evaluation.prompts import Prompt, prompts_of
from imagen_video.evaluation.records import settings_of
from imagen_video.evaluation.report import Report, Section, judges_line, report_of
from imagen_video.evaluation.run import Column, Evaluation, computed_by
from imagen_video.evaluation.scores import Measure
from imagen_video.evaluation.upsampled import Small, made_small
from imagen_video.files import replacing
from imagen_video.metrics.features import digest_of
from imagen_video.sampling import SampleSpec, override
from imagen_video.spec import GuidanceSpec, SamplerSpec, StageSpec
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
    signal-to-noise ratio of the noise on the low-resolution video, as the paper gives it."""

    stage: str
    guidance: tuple[str, ...] = ()
    steps: tuple[int, ...] = ()
    moves: tuple[Move, ...] = ()
    shifts: tuple[float, ...] = ()
    aug_snr: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Row:
    """A way of sampling and what came of it, with what to know and the settings of the numbers."""

    name: str
    curve: str
    sampler: SamplerSpec
    section: Section
    notes: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    def measure(self, name: str) -> Measure | None:
        """A measure by the first letters of its name."""
        return next((m for m in self.section.measures if m.name.startswith(name)), None)


def guidance_of(text: str) -> GuidanceSpec:
    """`4`: constant. `15/1:10`: 15 for ten steps, then 1 and 15 in turn. `4[-3,5]`: only where
    log-SNR lies between. ValueError for anything else."""
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
        interval=None if least is None else (float(least), float(most)),
    )


def samplers(stage: StageSpec, spec: SweepSpec) -> Iterator[tuple[str, str, SamplerSpec]]:
    """Name, name of the curve (all but the guidance), and sampler of every combination."""
    own = stage.sampler
    if spec.aug_snr and stage.kind == "base":
        raise ValueError(f"{stage.name!r} starts from noise: only upsampling stages have --aug-snr")
    for snr in spec.aug_snr:
        if not 0 < snr < math.inf:
            raise ValueError(f"a signal-to-noise ratio is above 0, got {snr}")
    levels = [math.log(snr) for snr in spec.aug_snr] or [own.aug_logsnr]
    for steps, move, shift, level in itertools.product(
        spec.steps or (own.num_steps,),
        spec.moves or (own.move,),
        spec.shifts or (own.logsnr_shift,),
        levels,
    ):
        curve = f"{move}, {steps} steps"
        if spec.shifts:
            curve += f", shift {shift:g}"
        if level is not None:
            curve += f", aug SNR {math.exp(level):.3g}"
        for text in spec.guidance or ("",):
            # The constant part of the stage's own guidance keeps its share of the steps.
            sampler = override(own, SampleSpec(steps=steps))
            guidance = guidance_of(text) if text else sampler.guidance
            if text and guidance.low is not None and guidance.constant_steps >= steps:
                raise ValueError(
                    f"guidance {text!r} is constant for all of {steps} steps: let fewer of them be"
                )
            changed = {"move": move, "logsnr_shift": shift, "aug_logsnr": level}
            sampler = replace(sampler, guidance=guidance, **changed)
            stage.refuse_unlearned([guidance.weight])
            kind = "" if guidance.low is None else ", oscillating"
            if guidance.interval:
                kind += ", within {:g} and {:g}".format(*guidance.interval)
            yield f"{curve}, guidance {text or 'its own'}", curve + kind, sampler


def sweep(model: str, spec: SweepSpec, asked: EvaluationSpec, out: Path) -> list[Row]:
    """Evaluate every combination into `out`: sweep.json, curve.png, and a folder each, which a
    sweep of others that has it too does not make again. Rows come
    in order of quality: `best` first. Empty on all but the first of many processes."""
    with started(asked.device) as ranks:
        cascade = Cascade.from_pretrained(model, device=ranks.device)
        stage = cascade.spec.stage(spec.stage)
        rows = []
        for name, curve, sampler in list(samplers(stage, spec)):
            trial = cascade.with_sampler(stage.name, sampler)
            facts = json.dumps(asdict(sampler), sort_keys=True)
            place = out / digest_of_text(facts)
            report = _tried(trial, stage.name, asked, out=place, ranks=ranks)
            if report:
                found = {"notes": report.notes, "settings": report.settings}
                section = report.sections[0]
                rows.append(Row(name=name, curve=curve, sampler=sampler, section=section, **found))
        if rows:
            rows = in_order(rows)
            facts = [asdict(row) for row in rows]
            with replacing(out / "sweep.json") as path:
                path.write_text(json.dumps(facts, indent=1) + "\n")
            draw(rows, out / "curve.png")
        return rows


def _tried(
    cascade: Cascade, name: str, asked: EvaluationSpec, *, out: Path, ranks: Ranks
) -> Report | None:
    stage = cascade.spec.stage(name)
    prompts = prompts_of(asked.prompts, asked.count)
    tools, reference = tools_of(asked, prompts), reference_of(asked.reference, prompts, out.parent)
    if isinstance(reference, Path) and stage.kind != "base":
        raise ValueError(f"{name!r} needs true clips to start from: {reference} has features only")
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
    evaluation.settle(settings)
    start = None if stage.kind == "base" else name

    def wanted(index: int) -> SampleSpec:
        return SampleSpec(seed=asked.seed + index, start=start, until=name)

    def low(index: int) -> tuple[Prompt, Small, Frames]:
        assert not isinstance(reference, Path)
        place = evaluation.first_truth + index
        true = reference.clip(place, stage.output, range(stage.output.frames))
        return Prompt(true.caption, true.attributes), made_small(true.video, stage), true.video

    evaluation.make_references()
    evaluation.make_samples(cascade, wanted, low if start else None)
    ranks.wait()
    return report_of(evaluation, settings, asked.seed) if ranks.first else None


def digest_of_text(text: str) -> str:
    """Eight hexadecimal digits, for the name of a folder."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def in_order(rows: list[Row]) -> list[Row]:
    """Best first: of the settings whose videos fit their prompts as well as any (within the 95 %
    interval of the best), the one with the lowest FVD; then the others, by FVD."""

    def distance(row: Row) -> float:
        found = row.measure("FVD")
        assert found is not None
        return found.value

    fits = [row.measure("fit") or row.measure("CLIP score") for row in rows]
    top = max((fit for fit in fits if fit), key=lambda fit: fit.value, default=None)
    least = -math.inf if top is None or top.low is None else top.low
    well = [fit is None or fit.value >= least for fit in fits]
    order = sorted(zip(well, rows, strict=True), key=lambda pair: (not pair[0], distance(pair[1])))
    return [row for _, row in order]


def draw(rows: list[Row], path: Path) -> None:
    """FVD against alignment, a curve over the guidance for everything else; the best is
    marked, and what nothing beats in both."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.subplots()
    curves: dict[str, list[tuple[float, float, str]]] = {}
    label = ["no measure of alignment", "FVD"]
    for row in sorted(rows, key=lambda row: row.sampler.guidance.weight):
        across, up = row.measure("fit") or row.measure("CLIP score"), row.measure("FVD")
        assert up is not None
        label[1] = f"{up.name}{' (proxy)' if up.proxy else ''}, lower is better"
        if across:
            label[0] = f"{across.name}{' (proxy)' if across.proxy else ''}, higher is better"
        point = (across.value if across else 0.0, up.value, row.name.rpartition("guidance ")[2])
        curves.setdefault(row.curve, []).append(point)
        if row is rows[0]:
            axes.plot(*point[:2], "*", color=EMBER, markersize=14, zorder=1)
    better = front([point[:2] for points in curves.values() for point in points])
    line = {"color": "0.85", "linewidth": 7, "zorder": 0, "label": "none is better in both"}
    axes.plot(*zip(*better, strict=True), **line)
    for name, points in curves.items():
        color = INK if len(curves) == 1 else None
        axes.plot([p[0] for p in points], [p[1] for p in points], "o-", label=name, color=color)
        for across, up, text in points:
            axes.annotate(text, (across, up), xytext=(4, 4), textcoords="offset points", fontsize=8)
    axes.set(xlabel=label[0], ylabel=label[1])
    axes.legend(fontsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those (alignment, distance) of which no other is as good in both and better in one, by
    alignment."""
    found: list[tuple[float, float]] = []
    for point in sorted(set(points), key=lambda point: (-point[0], point[1])):
        if not found or point[1] < found[-1][1]:
            found.append(point)
    return found[::-1]


def as_table(rows: list[Row]) -> str:
    """The settings, best first, with what matters of each and its 95 % interval."""
    names = ("FID", "FVD", "psnr", "fit", "CLIP score", "R-precision")
    names += ("motion", "concept", "style", "background", "rotation")
    shown = [name for name in names if any(row.measure(name) for row in rows)]
    width = max(len(row.name) for row in rows) + 2
    heads = [
        f"{name} (proxy)" if any(m.proxy for row in rows if (m := row.measure(name))) else name
        for name in shown
    ]
    lines = [f"{'':{width}}" + "".join(f"{head:>26}" for head in heads)]
    for row in rows:
        cells = "".join(f"{_cell(row.measure(name)):>26}" for name in shown)
        lines.append(f"{row.name:{width}}{cells}")
    notes = dict.fromkeys(note for row in rows for note in row.notes)
    lines += [*judges_line(rows[0].section), *(f"note: {note}" for note in notes)]
    return "\n".join(lines)


def _cell(measure: Measure | None) -> str:
    if measure is None:
        return "-"
    known = measure.low is not None and measure.high is not None
    return f"{measure.value:.4g}" + (f" ({measure.low:.4g} to {measure.high:.4g})" if known else "")
