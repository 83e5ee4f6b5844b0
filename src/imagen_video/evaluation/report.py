"""From records to numbers: what report.json holds.

Every number has its interval where one is known, its count, and what true clips score by the same
measure, as many of them as there are samples.
"""

import json
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from imagen_video.evaluation.records import Features, Record
from imagen_video.evaluation.run import Column, Evaluation
from imagen_video.files import replacing
from imagen_video.metrics import diversity
from imagen_video.metrics.alignment import fit, retrieved, score
from imagen_video.metrics.frechet import (
    SIZES,
    Estimate,
    Moments,
    Target,
    bootstrap,
    extrapolated,
)
from imagen_video.metrics.measures import wilson

LOWER, HIGHER, EQUAL = "lower", "higher", "as true clips"
RESAMPLES = 1000
"""Draws for the interval of a mean."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A number, its 95 % interval, of how many videos; what true clips score; which is better."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    of: int
    truth: float | None = None
    better: str
    proxy: bool = False


@dataclass(kw_only=True)
class Section:
    """Everything about one stage's output, or a folder's videos."""

    name: str
    format: str
    measures: list[Measure] = field(default_factory=list)
    by_position: list[float] = field(default_factory=list)
    """FID of each frame position against true frames of all positions."""
    confusions: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    """For each fact: asked for -> seen -> how often."""
    judges: dict[str, tuple[int, int]] = field(default_factory=dict)
    """How often the judges are right on held-out ground truth of this size: (right, of)."""
    own: dict[str, float] = field(default_factory=dict)
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
    counts = evaluation.counts
    samples = evaluation.records("cascade", column.name, counts.samples)
    truth = evaluation.records("truth", column.name, counts.samples)
    reference = evaluation.features(column.format)
    section = Section(name=column.name, format=str(column.format))
    proxy = evaluation.tools.frames.facts.proxy
    section.measures += distances(samples, truth, reference, proxy=proxy, seed=seed)
    target = Target(Moments.of(reference.frames.flatten(0, 1)))
    section.by_position = [target.of(rows) for rows in stacked(samples).unbind(1)]
    own = evaluation.records("own", column.name, counts.own)
    if own:
        section.own = own_error(own, samples, target)
    section.measures += varieties(samples, truth, proxy=proxy)
    section.measures += over_time(samples, truth)
    if samples[0].aligned.numel():
        section.measures += alignments(evaluation, samples, truth)
    panel = evaluation.tools.panel
    if panel:
        section.measures += judged(samples, truth)
        section.confusions = confusions(samples)
        found = panel.accuracies(column.format.frames, column.format.height)
        section.judges = {name: (a.right, a.of) for name, a in found.items()}
    seconds = [r.facts["seconds"] for r in samples if "seconds" in r.facts]
    section.seconds = sum(seconds) / len(seconds) if seconds else None
    return section


def stacked(records: Sequence[Record]) -> Tensor:
    """The frame features of many clips as (clips, frames, d)."""
    return Features.of(records).frames


def vectors(records: Sequence[Record]) -> Tensor:
    """One vector a clip: its frame features averaged."""
    return stacked(records).mean(1)


def distances(
    samples: Sequence[Record],
    truth: Sequence[Record],
    reference: Features,
    *,
    proxy: bool,
    seed: int,
) -> list[Measure]:
    """FID over frames, FVD over clips, KID, precision, recall, density and coverage."""
    found = []
    for name, pick, true_rows in (
        ("FID", stacked, reference.frames),
        ("FVD", lambda records: Features.of(records).clips[:, None], reference.clips[:, None]),
    ):
        target = Target(Moments.of(true_rows.flatten(0, 1)))
        rows = pick(samples).flatten(0, 1)
        if len(rows) <= rows.shape[1]:
            warnings.warn(
                f"{name} of {len(rows)} feature vectors of {rows.shape[1]} numbers is too large: "
                "compare it only with others of as many, or ask for a larger --count",
                stacklevel=2,
            )
        true = target.of(pick(truth).flatten(0, 1)) if truth else None
        estimate = bootstrap(target, pick(samples), seed)
        common = {"of": len(samples), "better": LOWER, "proxy": proxy}
        found.append(Measure(name=name, truth=true, **interval(estimate), **common))
        if len(samples) >= 2 * SIZES:
            endless = extrapolated(target, pick(samples), seed)
            true = extrapolated(target, pick(truth), seed) if truth else None
            found.append(Measure(name=f"{name}, endless", value=endless, truth=true, **common))
    real = reference.frames.mean(1)
    kid, true = (
        diversity.kernel_distance(vectors(some), real) if some else None
        for some in (samples, truth)
    )
    assert kid is not None
    common = {"of": len(samples), "proxy": proxy}
    found.append(Measure(name="KID", value=kid, truth=true, better=LOWER, **common))
    if min(len(samples), len(real)) > diversity.NEAREST:
        ours = diversity.coverage_of(vectors(samples), real)
        theirs = diversity.coverage_of(vectors(truth), real) if truth else {}
        found += [
            Measure(name=name, value=value, truth=theirs.get(name), better=HIGHER, **common)
            for name, value in ours.items()
        ]
    else:
        warnings.warn(
            f"precision, recall, density and coverage need {diversity.NEAREST + 1} videos or more, "
            f"got {len(samples)}: ask for more",
            stacklevel=2,
        )
    return found


def varieties(samples: Sequence[Record], truth: Sequence[Record], *, proxy: bool) -> list[Measure]:
    """Vendi scores: of all videos, and of those of one prompt where it was sampled often."""
    common = {"better": EQUAL, "proxy": proxy}
    found = [
        Measure(
            name="Vendi",
            value=diversity.vendi(vectors(samples)),
            truth=diversity.vendi(vectors(truth)) if truth else None,
            of=len(samples),
            **common,
        )
    ]
    within, true = (seeds_apart(records) for records in (samples, truth))
    if within:
        value, of = sum(within) / len(within), len(within)
        mean = sum(true) / len(true) if true else None
        found.append(Measure(name="Vendi of one prompt", value=value, of=of, truth=mean, **common))
    return found


def seeds_apart(records: Sequence[Record]) -> list[float]:
    """The Vendi score of every prompt that has more than one video."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(str(record.facts.get("asked") or record.facts["prompt"]), []).append(
            record
        )
    return [diversity.vendi(vectors(group)) for group in groups.values() if len(group) > 1]


def over_time(samples: Sequence[Record], truth: Sequence[Record]) -> list[Measure]:
    """How much follows smoothly from frame to frame."""
    return [
        mean_of(name, [r.facts[name] for r in samples], [r.facts[name] for r in truth], EQUAL)
        for name in ("warping", "flicker")
    ]


def alignments(
    evaluation: Evaluation, samples: Sequence[Record], truth: Sequence[Record]
) -> list[Measure]:
    """CLIP score and R-precision: does a video fit its own prompt best of all?"""
    aligner = evaluation.tools.aligner
    assert aligner is not None
    texts = list(dict.fromkeys(prompt.text for prompt in evaluation.prompts))
    known = aligner.prompts(texts)
    facts = aligner.facts

    def told(record: Record) -> Tensor:
        text = record.facts["prompt"]
        return known[texts.index(text)] if text in texts else aligner.prompts([text])[0]

    def found(records: Sequence[Record]) -> tuple[list[float], list[bool]]:
        scores = [score(r.aligned, told(r)) for r in records]
        hits = []
        for i, record in enumerate(records):
            # A true clip may be told in other words than the prompt that it was drawn for.
            own, candidates = i % len(evaluation.prompts), known.clone()
            place = texts.index(evaluation.prompts[own].text)
            candidates[place] = told(record)
            hits.append(retrieved(fit(record.aligned, candidates), place))
        return scores, hits

    ours, theirs = found(samples), found(truth)
    name = "fit" if facts.proxy else "CLIP score"
    measures = [mean_of(name, ours[0], theirs[0], HIGHER, proxy=facts.proxy)]
    if len(texts) > 1:
        name = f"R-precision of {len(texts)}"
        measures.append(share_of(name, ours[1], theirs[1], proxy=facts.proxy))
    return measures


def judged(samples: Sequence[Record], truth: Sequence[Record]) -> list[Measure]:
    """How often the judges see what was asked for; words as they are read."""
    measures = [
        share_of(fact, *map(right_of, (told(samples, fact), told(truth, fact))))
        for fact in questions(samples)
    ]
    words = [r for r in samples if r.facts.get("asked", {}).get("word") and "words" in r.facts]
    if words:
        read = [r.facts["asked"]["word"] == r.facts["words"] for r in words]
        measures.append(share_of("word", read, []))
    return measures


def questions(records: Sequence[Record]) -> list[str]:
    """What some prompt names and a judge tells of its video."""
    return list(
        dict.fromkeys(
            fact
            for r in records
            for fact in r.facts.get("answers", {})
            if fact in r.facts.get("asked", {})
        )
    )


def told(records: Sequence[Record], fact: str) -> list[tuple[str, str]]:
    """(asked for, seen) of every record that has both."""
    return [
        (record.facts["asked"][fact], record.facts["answers"][fact])
        for record in records
        if fact in record.facts.get("asked", {}) and fact in record.facts.get("answers", {})
    ]


def right_of(pairs: list[tuple[str, str]]) -> list[bool]:
    return [asked == seen for asked, seen in pairs]


def confusions(records: Sequence[Record]) -> dict[str, dict[str, dict[str, int]]]:
    """For each fact: what was asked for -> what is seen -> how often."""
    found: dict[str, dict[str, Counter[str]]] = {}
    for fact in questions(records):
        table = found.setdefault(fact, {})
        for asked, seen in told(records, fact):
            table.setdefault(asked, Counter())[seen] += 1
    return {fact: {k: dict(v) for k, v in table.items()} for fact, table in found.items()}


def own_error(own: Sequence[Record], samples: Sequence[Record], target: Target) -> dict[str, float]:
    """A stage on true input: its fidelity, and its distance beside that of the cascade's output,
    of which the rest is inherited."""
    found = {
        name: sum(min(r.facts[name], 99.0) for r in own) / len(own)
        for name in ("psnr", "interpolated", "ssim", "vmaf")
        if all(name in r.facts for r in own)
    }
    count = min(len(own), len(samples))
    if count * own[0].frames.shape[0] > 1:
        alone = target.of(stacked(own[:count]).flatten(0, 1))
        whole = target.of(stacked(samples[:count]).flatten(0, 1))
        found |= {"FID alone": alone, "FID in the cascade": whole, "inherited": whole - alone}
    return found | {"of": count}


def ranked(records: Sequence[Record]) -> list[dict[str, Any]]:
    """The samples from worst to best by right answers, then by how well they fit."""
    rows = []
    for index, record in enumerate(records):
        asked, seen = record.facts.get("asked", {}), record.facts.get("answers", {})
        wrong = {fact: seen[fact] for fact in asked if fact in seen and asked[fact] != seen[fact]}
        right = sum(asked[fact] == seen[fact] for fact in asked if fact in seen)
        rows.append(
            {"index": index, "prompt": record.facts["prompt"], "right": right, "wrong": wrong}
        )
    return sorted(rows, key=lambda row: row["right"])


def interval(estimate: Estimate) -> dict[str, float]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def mean_of(
    name: str, values: list[float], truth: list[float], better: str, *, proxy: bool = False
) -> Measure:
    """A mean over videos with a bootstrap interval."""
    rows = torch.tensor(values, dtype=torch.float64)
    low = high = None
    if len(rows) > 1:
        generator = torch.Generator().manual_seed(0)
        draws = torch.randint(len(rows), (RESAMPLES, len(rows)), generator=generator)
        low, high = rows[draws].mean(1).quantile(rows.new_tensor([0.025, 0.975])).tolist()
    return Measure(
        name=name,
        value=rows.mean().item(),
        low=low,
        high=high,
        of=len(rows),
        truth=sum(truth) / len(truth) if truth else None,
        better=better,
        proxy=proxy,
    )


def share_of(name: str, right: list[bool], truth: list[bool], *, proxy: bool = False) -> Measure:
    """A share of right answers in per cent, with its Wilson interval."""
    low, high = wilson(sum(right), len(right))
    return Measure(
        name=name,
        value=100 * sum(right) / len(right),
        low=100 * low,
        high=100 * high,
        of=len(right),
        truth=100 * sum(truth) / len(truth) if truth else None,
        better=HIGHER,
        proxy=proxy,
    )


def as_table(report: Report) -> str:
    """The measures as text, a block a stage."""
    lines = []
    for section in report.sections:
        lines.append(f"\n{section.name} {section.format}")
        lines.append(f"{'':24}{'value':>12}{'95 % interval':>24}{'true clips':>12}{'of':>6}")
        for m in section.measures:
            name = f"{m.name} (proxy)" if m.proxy else m.name
            span = f"{m.low:.4g} to {m.high:.4g}" if m.low is not None else ""
            true = f"{m.truth:.4g}" if m.truth is not None else ""
            lines.append(f"{name:24}{m.value:12.4g}{span:>24}{true:>12}{m.of:6}")
        if section.own:
            pairs = ", ".join(f"{k} {v:.4g}" for k, v in section.own.items())
            lines.append(f"from true low-resolution video: {pairs}")
        if section.judges:
            told = (f"{k} {100 * r / of:.1f} %" for k, (r, of) in section.judges.items())
            lines.append(f"judges on held-out ground truth: {', '.join(told)}")
    return "\n".join([*lines, *(f"note: {note}" for note in report.notes)])
