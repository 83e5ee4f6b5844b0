"""A cascade, or a folder of videos, evaluated: stage by stage, with everything written down."""

import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from imagen_video.cascade import Cascade
from imagen_video.data.stickers.concepts import COLOURS
from imagen_video.data.stickers.evaluation import FIELDS
from imagen_video.distributed import Ranks, started
from imagen_video.evaluation.page import write_page
from imagen_video.evaluation.prompts import STICKERS, Prompt, facts_by_text, prompts_of
from imagen_video.evaluation.records import Tools, settings_of
from imagen_video.evaluation.reference import DataReference, Reference, StickerReference, rotation
from imagen_video.evaluation.report import Report, report_of
from imagen_video.evaluation.run import Column, Counts, Evaluation, computed_by
from imagen_video.index import INDEX, located
from imagen_video.metrics.alignment import Aligner, ClipAligner, MatcherAligner
from imagen_video.metrics.features import clip_extractor, digest, digest_of, frame_extractor
from imagen_video.metrics.matcher import Matcher
from imagen_video.metrics.panel import MATCHER, SHIPPED, Panel
from imagen_video.metrics.upsampling import ffmpeg
from imagen_video.metrics.words import reader
from imagen_video.presets import SHORT_CAPTIONS
from imagen_video.sampling import SampleSpec
from imagen_video.text.encoder import load_encoder
from imagen_video.video import VideoFormat, read_video, video_info

PROXY = "proxy"
KNOWN = {*FIELDS, "word"}
"""Facts that can be checked in the sticker world."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSpec:
    """What is measured. Samples are `count` prompts times `seeds`; sample i has seed `seed` + i."""

    prompts: str = STICKERS
    count: int | None = None
    seeds: int = 1
    reference: tuple[str, ...] = (STICKERS,)
    reference_clips: int = 128
    own: int | None = None
    until: str | None = None
    steps: int | None = None
    guidance: float | None = None
    seed: int = 0
    frame_features: str = PROXY
    clip_features: str = PROXY
    clip: str = PROXY
    device: str = "cpu"

    def __post_init__(self):
        if self.seeds < 1:
            raise ValueError(f"seeds must be 1 or more, got {self.seeds}")
        if self.reference_clips < 2:
            raise ValueError(f"reference_clips must be 2 or more, got {self.reference_clips}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must lie in 0..2^63 - 1, got {self.seed}")


def evaluate(model: str | Path, spec: EvaluationSpec, out: Path) -> Report | None:
    """Evaluate what `from_pretrained` takes, or a folder of videos, into `out`: records,
    report.json and report.html. What an earlier call recorded there is not made again; processes
    that torchrun started share the work, and only the first gets the report."""
    if not str(model):
        raise ValueError("name a model, or a folder of videos")
    with started(spec.device) as ranks, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if (located(model) / INDEX).is_file():
            evaluation, settings = _of_cascade(str(model), spec, out, ranks)
        else:
            evaluation, settings = _of_videos(Path(model), spec, out, ranks)
        ranks.wait()
        if not ranks.first:
            return None
        evaluation.keep_references()
        settings |= {"reference features": digest(evaluation.reference_path)}
        report = report_of(evaluation, settings, spec.seed)
        report.notes = list(dict.fromkeys([*(str(w.message) for w in caught), *report.notes]))
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
    samples = samples_of(prompts, spec)
    counts = Counts(
        samples=samples,
        reference=spec.reference_clips,
        own=samples if spec.own is None else spec.own,
    )
    tools = tools_of(spec, prompts)
    if counts.own and any(c.upsampling for c in columns) and ffmpeg() is None:
        warnings.warn("SSIM and VMAF are not measured: sh install.sh evaluate", stacklevel=2)
    evaluation = Evaluation(
        columns=columns,
        prompts=prompts,
        counts=counts,
        tools=tools,
        reference=reference_of(spec.reference, prompts, out),
        out=out,
        ranks=ranks,
    )
    settings = settings_of(
        tools,
        **_asked(spec, prompts, evaluation.counts),
        model=cascade.spec.name,
        weights={stage.spec.name: digest_of(stage.unet) for stage in chosen},
        stages={stage.spec.name: asdict(stage.spec) for stage in chosen},
        pixels="as the stage made them",
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


def _of_videos(
    folder: Path, spec: EvaluationSpec, out: Path, ranks: Ranks
) -> tuple[Evaluation, dict[str, Any]]:
    paths = sorted(folder.glob("*.mp4")) if folder.is_dir() else []
    if len(paths) < 2:
        raise ValueError(
            f"{folder} holds {'one video' if paths else 'no cascade and no videos'}: give 'mini', "
            "a folder of save_pretrained, or a folder of two or more .mp4"
        )
    format = _one_format(paths)
    if spec != replace(spec, count=None, seeds=1, own=None, until=None, steps=None, guidance=None):
        raise ValueError(
            f"{folder} holds videos, made already: leave out count, seeds and the like"
        )
    if spec.prompts == STICKERS:
        prompts = [_told(path) for path in paths]
    else:
        prompts = prompts_of(spec.prompts, len(paths))
    tools = tools_of(spec, prompts)
    counts = Counts(samples=len(paths), reference=spec.reference_clips, own=0)
    evaluation = Evaluation(
        columns=[Column("videos", format)],
        prompts=prompts,
        counts=counts,
        tools=tools,
        reference=reference_of(spec.reference, prompts, out),
        out=out,
        ranks=ranks,
    )
    settings = settings_of(
        tools,
        **_asked(spec, prompts, evaluation.counts),
        model=str(folder),
        weights=digest(*paths),
        pixels="decoded from mp4",
    )
    evaluation.settle(settings)
    for i in evaluation.missing("cascade", "videos", len(paths), "videos"):
        clip = read_video(paths[i])
        if len(clip.frames) != format.frames:
            raise ValueError(
                f"{paths[i]} says that it has {format.frames} frames, and {len(clip.frames)} can "
                "be decoded: write it anew, or remove it"
            )
        evaluation.keep_video(i, "videos", clip.frames, clip.fps)
        facts = {"prompt": prompts[i].text, "asked": dict(prompts[i].facts)}
        tools.record(clip.frames, **facts).save(evaluation.path("cascade", "videos", i))
    evaluation.make_references()
    return evaluation, settings


def _asked(spec: EvaluationSpec, prompts: Sequence[Prompt], counts: Counts) -> dict[str, Any]:
    """What was asked for, as the settings have it."""
    return {
        "counts": asdict(counts),
        "asked": asked_of(prompts),
        "reference": list(spec.reference),
        "seed": spec.seed,
        "until": spec.until,
        "steps": spec.steps,
        "guidance": spec.guidance,
    }


def asked_of(prompts: Sequence[Prompt]) -> list[str | dict[str, str]]:
    """Prompts as the settings have them: with the facts that a file gives them."""
    known = facts_by_text()
    return [
        p.text if p.facts in ({}, known.get(p.text)) else {"prompt": p.text, **p.facts}
        for p in prompts
    ]


def samples_of(prompts: Sequence[Prompt], spec: EvaluationSpec) -> int:
    """How many videos are sampled; ValueError for one, of which no distribution is known."""
    count = len(prompts) * spec.seeds
    if count < 2:
        raise ValueError("distances need two videos or more: ask for a larger --count or --seeds")
    return count


def _one_format(paths: Sequence[Path]) -> VideoFormat:
    """Of all videos; ValueError, before any is recorded, where there are several."""
    infos = map(video_info, paths)
    formats = [VideoFormat(info.frames, info.height, info.width, info.fps) for info in infos]
    for path, format in zip(paths, formats, strict=True):
        if format != formats[0]:
            raise ValueError(
                f"{path.name} is {format} and {paths[0].name} is {formats[0]}: put videos of one "
                "size and length into a folder"
            )
    return formats[0]


def _told(path: Path) -> Prompt:
    """The prompt of a video: in the .json that `generate` writes beside it, or in a .txt."""
    text, beside = "", path.with_suffix(".json")
    if beside.is_file():
        try:
            found = json.loads(beside.read_text("utf-8-sig"))
        except ValueError as error:
            raise ValueError(f"{beside} is no JSON ({error}): mend or remove it") from error
        told = found.get("prompt") if isinstance(found, dict) else None
        text = told if isinstance(told, str) else ""
    elif path.with_suffix(".txt").is_file():
        text = path.with_suffix(".txt").read_text("utf-8-sig", errors="replace").strip()
    return Prompt(text, facts_by_text().get(text, {}))


def tools_of(spec: EvaluationSpec, prompts: Sequence[Prompt]) -> Tools:
    """What the spec names; the judges and the matcher of the sticker world only where the prompts
    are of that world."""
    told = [bool(KNOWN & set(prompt.facts)) for prompt in prompts]
    known = all(told)
    if any(told) and not known:
        warnings.warn("some prompts are not of the sticker world: nothing is judged", stacklevel=2)
    aligner: Aligner | None = None
    if spec.clip != PROXY:
        aligner = ClipAligner(spec.clip, spec.device)
    elif known:
        matcher = Matcher.load(SHIPPED / f"{MATCHER}.safetensors")
        aligner = MatcherAligner.of(matcher, load_encoder(SHORT_CAPTIONS))
    else:
        warnings.warn("alignment is not measured: give --clip, a model that knows", stacklevel=2)
    words = None
    if any("word" in prompt.facts for prompt in prompts):
        words = reader()
        if words is None:
            warnings.warn("words are not read: sh install.sh words", stacklevel=2)
    return Tools(
        frames=frame_extractor(spec.frame_features, spec.device),
        clips=clip_extractor(spec.clip_features, spec.device),
        aligner=aligner,
        panel=Panel.load(SHIPPED, COLOURS) if known else None,
        rotation=rotation if known else None,
        words=words,
    )


def reference_of(names: Sequence[str], prompts: Sequence[Prompt], out: Path) -> Reference | Path:
    """True clips of the sticker world, of the user's data, or what was kept of such clips."""
    if list(names) == [STICKERS]:
        return StickerReference(prompts)
    if len(names) == 1 and names[0].endswith(".safetensors"):
        if not Path(names[0]).is_file():
            raise ValueError(f"no reference at {names[0]}: an evaluation writes one into its --out")
        warnings.warn(
            f"{names[0]} holds features only: no true clips are measured beside, and no stage from "
            "true low-resolution video",
            stacklevel=2,
        )
        return Path(names[0])
    return DataReference.of(names, out)
