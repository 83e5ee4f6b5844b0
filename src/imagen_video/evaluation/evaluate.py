"""A cascade, or a folder of videos, evaluated: stage by stage, with everything written down."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from imagen_video.cascade import Cascade
from imagen_video.distributed import Ranks, started
from imagen_video.evaluation.asked import (
    EvaluationSpec,
    counts_of,
    reference_of,
    settings_for,
    tools_of,
)
from imagen_video.evaluation.page import write_page
from imagen_video.evaluation.prompts import prompts_of
from imagen_video.evaluation.records import settings_of
from imagen_video.evaluation.report import Report, report_of
from imagen_video.evaluation.run import Column, Evaluation, computed_by
from imagen_video.evaluation.videos import of_videos
from imagen_video.index import INDEX, located
from imagen_video.metrics.features import digest, digest_of
from imagen_video.metrics.upsampling import ffmpeg
from imagen_video.sampling import SampleSpec

VERSIONS = ("imagen-video", "torch", "transformers")


def evaluate(model: str | Path, spec: EvaluationSpec, out: Path) -> Report | None:
    """Evaluate what `from_pretrained` takes, or a folder of videos, into `out`: records,
    report.json and report.html. What an earlier call recorded there is not made again; processes
    that torchrun started share the work, and only the first gets the report."""
    if not str(model):
        raise ValueError("name a model, or a folder of videos")
    with started(spec.device) as ranks, noted(ranks) as notes:
        if (located(model) / INDEX).is_file():
            evaluation, settings = _of_cascade(str(model), spec, out, ranks)
        else:
            evaluation, settings = of_videos(Path(model), spec, out, ranks)
        ranks.wait()
        if not ranks.first:
            return None
        evaluation.keep_references()
        settings |= {"reference features": digest(evaluation.reference_path)}
        settings |= {"versions": {name: version(name) for name in VERSIONS}}
        report = report_of(evaluation, settings, spec.seed)
        report.notes = list(dict.fromkeys([*notes, *report.notes]))
        report.save(out / "report.json")
        write_page(report, out / "report.html", videos=out / "videos")
        return report


def _of_cascade(
    model: str, spec: EvaluationSpec, out: Path, ranks: Ranks
) -> tuple[Evaluation, dict[str, Any]]:
    cascade = Cascade.from_pretrained(model, device=ranks.device)
    chosen = cascade.plan(SampleSpec(until=spec.until, steps=spec.steps, guidance=spec.guidance))
    columns = [
        Column(stage.spec.name, stage.spec.output, stage.spec.kind != "base") for stage in chosen
    ]
    prompts = prompts_of(spec.prompts, spec.count)
    reference = reference_of(spec.reference, prompts, out)
    counts = counts_of(prompts, spec, reference, own=True)
    tools, compared = tools_of(spec, prompts), counts.own and any(c.upsampling for c in columns)
    if compared and ffmpeg() is None:
        warnings.warn(
            "SSIM and VMAF are not measured: sh install.sh evaluate, then evaluate into another "
            "--out",
            stacklevel=2,
        )
    evaluation = Evaluation(
        columns=columns,
        prompts=prompts,
        counts=counts,
        tools=tools,
        reference=reference,
        out=out,
        ranks=ranks,
    )
    settings = settings_of(
        tools,
        **settings_for(spec, prompts, evaluation),
        model=cascade.spec.name,
        weights={stage.spec.name: digest_of(stage.unet) for stage in chosen},
        stages={stage.spec.name: asdict(stage.spec) for stage in chosen},
        pixels="as the stage made them",
        fidelity="PSNR, SSIM and VMAF" if ffmpeg() else "PSNR",
        computed=computed_by(cascade),
    )
    evaluation.settle(settings)

    def wanted(index: int, stage: str | None = None) -> SampleSpec:
        return SampleSpec(
            seed=spec.seed + index,
            start=stage,
            until=stage or spec.until,
            steps=spec.steps,
            guidance=spec.guidance,
        )

    evaluation.make_references()
    evaluation.make_samples(cascade, wanted)
    evaluation.make_own(cascade, wanted)
    return evaluation, settings


@contextmanager
def noted(ranks: Ranks) -> Iterator[list[str]]:
    """What is warned of, once each: told at once by the first process, and kept."""
    notes: list[str] = []

    def note(message: Warning | str, *_: object, **__: object) -> None:
        if str(message) not in notes:
            notes.append(str(message))
            if ranks.first:
                tqdm.write(f"note: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        yield notes
