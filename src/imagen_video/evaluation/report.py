"""What report.json holds: every stage's measures, and the settings they were measured with."""

import json
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from imagen_video.evaluation.records import Record, looked_at
from imagen_video.evaluation.run import Column, Evaluation
from imagen_video.evaluation.scores import (
    EQUAL,
    HIGHER,
    Measure,
    features_for,
    fidelities,
    frechet,
    judged,
    mean_of,
    own_error,
    questions,
    share_of,
    stacked,
    together,
    told,
    vectors,
)
from imagen_video.evaluation.variety import Shown, neighbours, varieties
from imagen_video.files import replacing
from imagen_video.metrics.alignment import Aligner, retrieved, score
from imagen_video.metrics.frechet import Moments, Target, estimated
from imagen_video.metrics.judge import Accuracy
from imagen_video.metrics.measures import percent
from imagen_video.metrics.panel import nearest_size

JUDGED = ("motion", "concept", "style")
POSITION_DRAWS = 20
"""Draws for the interval of each position: sixteen of them a stage, at seconds a draw where there
are more videos than numbers in a feature."""


@dataclass(frozen=True, kw_only=True)
class Position:
    """FID of one frame of all videos against true frames of all positions, its 95 % interval, and
    that of as many true clips."""

    frame: int
    fid: float
    low: float | None
    high: float | None
    truth: float | None = None
    proxy: bool


@dataclass(kw_only=True)
class Section:
    """Everything about one stage's output, or a folder's videos."""

    name: str
    format: str
    measures: list[Measure] = field(default_factory=list)
    own: list[Measure] = field(default_factory=list)
    """An upsampling stage from true low-resolution video."""
    by_position: list[Position] = field(default_factory=list)
    frames: int
    """Of a whole video: positions are some of them."""
    confusions: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    """For each fact: asked for -> seen -> how often."""
    judges: list[Accuracy] = field(default_factory=list)
    """How often the judges are right on held-out ground truth of the size nearest to this one."""
    seconds: float | None = None


@dataclass(kw_only=True)
class Report:
    """All sections, the settings they were measured with, and the samples from worst to best."""

    settings: dict[str, Any]
    sections: list[Section]
    ranking: list[dict[str, Any]]
    notes: list[str]

    def save(self, path: Path) -> None:
        """As JSON."""
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=1) + "\n")


def report_of(evaluation: Evaluation, settings: dict[str, Any], seed: int) -> Report:
    """Compute everything that the records on disk allow; warnings become notes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sections = [_section(evaluation, column, seed) for column in evaluation.columns]
    notes = list(dict.fromkeys(str(warning.message) for warning in caught))
    last = evaluation.columns[-1].name
    samples = evaluation.records("cascade", last, evaluation.counts.samples)
    return Report(settings=settings, sections=sections, ranking=ranked(samples), notes=notes)


def _section(evaluation: Evaluation, column: Column, seed: int) -> Section:
    tools, counts = evaluation.tools, evaluation.counts
    samples = evaluation.records("cascade", column.name, counts.samples)
    truth = evaluation.records("truth", column.name, counts.samples)
    reference = evaluation.features(column.format)
    section = Section(name=column.name, format=str(column.format), frames=column.format.frames)
    frames, clips = tools.frames.facts.proxy, tools.clips.facts.proxy
    repeats = counts.samples // len(evaluation.prompts)
    drawn: Any = {"seed": seed, "repeats": repeats}

    target, d = Target(Moments.of(reference.frames.flatten(0, 1))), reference.frames.shape[-1]
    if len(reference.clips) <= d:
        warnings.warn(
            f"{len(reference.clips)} reference clips and features of {d} numbers: the Frechet "
            "distance comes out too large; take more --reference-clips",
            stacklevel=2,
        )
    targets = {"FID": target, "FVD": Target(Moments.of(reference.clips))}
    proxies = {"FID": frames, "FVD": clips}
    for name, one in targets.items():
        ours, true = (features_for(name, some) if some else None for some in (samples, truth))
        assert ours is not None
        section.measures += frechet(name, (ours, true), one, proxy=proxies[name], **drawn)
    rows = (stacked(samples), stacked(truth) if truth else None)
    section.by_position = by_position(target, rows, section.frames, proxy=frames, **drawn)
    shown = [evaluation.prompt(i).text for i in range(len(samples))]
    meant = [evaluation.shows(i, record.facts["prompt"]) for i, record in enumerate(truth)]
    section.measures += neighbours(
        Shown(vectors(samples), shown),
        Shown(vectors(truth), meant) if truth else None,
        Shown(reference.frames.mean(1), reference.prompts),
        proxy=frames,
        **drawn,
    )
    section.measures += varieties(samples, truth, proxy=frames, **drawn)
    for name, proxy in (("warping", False), ("flicker", frames)):
        values, others = ([r.facts[name] for r in some] for some in (samples, truth))
        found = mean_of(name, values, others, better=EQUAL, proxy=proxy, repeats=repeats)
        section.measures.append(found)
    own = evaluation.records("own", column.name, counts.own)
    if own:
        section.own = own_error((own, samples, truth), targets, proxies=proxies, **drawn)
    section.measures += fidelities(samples, repeats)
    if tools.aligner and samples[0].aligned.numel():
        section.measures += alignments(evaluation, tools.aligner, samples, truth, repeats)
    elif tools.aligner:
        warnings.warn(
            f"{column.name}: too small or short for {tools.aligner.facts.name}: alignment "
            "is not measured",
            stacklevel=2,
        )
    if tools.panel:
        unseen = [q for q in JUDGED if q not in samples[0].facts["answers"]]
        if unseen:
            warnings.warn(
                f"{column.name}: too small or short for the judges of {', '.join(unseen)}",
                stacklevel=2,
            )
        section.measures += judged(samples, truth, repeats)
        section.confusions = confusions(samples)
    section.judges = own_accuracy(evaluation, column)
    seconds = [r.facts["seconds"] for r in samples if "seconds" in r.facts]
    section.seconds = sum(seconds) / len(seconds) if seconds else None
    return section


def by_position(
    target: Target,
    rows: tuple[Tensor, Tensor | None],
    frames: int,
    *,
    proxy: bool,
    seed: int,
    repeats: int = 1,
) -> list[Position]:
    """FID of each of the spaced frames of samples and of true clips, (videos, frames, d)."""
    ours, truth = together(rows[0], repeats).unbind(2), rows[1]
    theirs = [None] * len(ours) if truth is None else map(target.of, truth.unbind(1))
    found = []
    for frame, own, true in zip(looked_at(frames), ours, theirs, strict=True):
        e = estimated(target, own, seed, POSITION_DRAWS)
        found.append(
            Position(frame=frame, fid=e.value, low=e.low, high=e.high, truth=true, proxy=proxy)
        )
    return found


def own_accuracy(evaluation: Evaluation, column: Column) -> list[Accuracy]:
    """How often the judges and the matcher are right on ground truth of about this size."""
    frames, height = column.format.frames, column.format.height
    tools, found = evaluation.tools, []
    if tools.panel:
        found += tools.panel.accuracies(frames, height).values()
    if tools.aligner and tools.aligner.fits(frames, height):
        found += nearest_size(tools.aligner.accuracies, height)
    return found


def alignments(
    evaluation: Evaluation,
    aligner: Aligner,
    samples: Sequence[Record],
    truth: Sequence[Record],
    repeats: int = 1,
) -> list[Measure]:
    """CLIP score and R-precision: does a video fit its own prompt best of all?"""
    texts = list(dict.fromkeys(prompt.text for prompt in evaluation.prompts))
    if not all(texts):
        warnings.warn("some videos have no prompt: alignment is not measured", stacklevel=2)
        return []
    known = aligner.prompts(texts)

    def found(records: Sequence[Record]) -> tuple[list[float], list[float]]:
        scores, hits = [], []
        for i, record in enumerate(records):
            place = texts.index(evaluation.prompt(i).text)
            candidates, text = known, record.facts["prompt"]
            if text != texts[place]:  # a true clip may be told in words of its own
                candidates = known.clone()
                candidates[place] = aligner.prompts([text])[0]
            scores.append(score(record.aligned, candidates[place]))
            hits.append(retrieved(record.aligned, candidates, place))
        return scores, hits

    ours, theirs = found(samples), found(truth)
    common: Any = {"proxy": aligner.facts.proxy, "repeats": repeats}
    name = "fit" if aligner.facts.proxy else "CLIP score"
    measures = [mean_of(name, ours[0], theirs[0], better=HIGHER, **common)]
    if len(texts) > 1:
        name = f"R-precision of {len(texts)}"
        measures.append(share_of(name, ours[1], theirs[1], **common))
    return measures


def confusions(records: Sequence[Record]) -> dict[str, dict[str, dict[str, int]]]:
    """For each fact: what was asked for -> what is seen -> how often."""
    found: dict[str, dict[str, Counter[str]]] = {}
    for fact in questions(records):
        table = found.setdefault(fact, {})
        for asked, seen in told(records, fact):
            table.setdefault(asked, Counter())[seen] += 1
    return {fact: {k: dict(v) for k, v in table.items()} for fact, table in found.items()}


def ranked(records: Sequence[Record]) -> list[dict[str, Any]]:
    """The samples from worst to best by the share of right answers."""
    rows = []
    for index, record in enumerate(records):
        asked, seen = record.facts.get("asked", {}), record.facts.get("answers", {})
        both = [fact for fact in asked if fact in seen]
        wrong = {fact: seen[fact] for fact in both if asked[fact] != seen[fact]}
        right = 1 - len(wrong) / len(both) if both else 0.0
        rows.append(
            {"index": index, "prompt": record.facts["prompt"], "right": right, "wrong": wrong}
        )
    return sorted(rows, key=lambda row: row["right"])


def as_table(report: Report) -> str:
    """The measures as text, a block a stage."""
    lines = []
    for section in report.sections:
        lines.append(f"\n{section.name} {section.format}")
        lines.append(f"{'':28}{'value':>12}{'95 % interval':>24}{'true clips':>12}{'of':>6}")
        lines += map(_line, section.measures)
        if section.own:
            lines.append("from true low-resolution video")
            lines += map(_line, section.own)
        lines += judges_line(section)
    return "\n".join([*lines, *(f"note: {note}" for note in report.notes)])


def judges_line(section: Section) -> list[str]:
    """How far the judges can be believed, where there are any."""
    if not section.judges:
        return []
    found = (f"{a.question} {percent(a.right, a.of)} at {a.size}" for a in section.judges)
    return [f"judges on held-out ground truth: {', '.join(found)}"]


def _line(m: Measure) -> str:
    name = f"{m.name} (proxy)" if m.proxy else m.name
    span = "" if m.low is None or m.high is None else f"{m.low:.4g} to {m.high:.4g}"
    true = "" if m.truth is None else f"{m.truth:.4g}"
    return f"{name:28}{m.value:12.4g}{span:>24}{true:>12}{m.of:6}"
