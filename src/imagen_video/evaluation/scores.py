"""From records to measures: each a number with its interval where one is known, how many videos it
is of, and what as many true clips score."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from imagen_video.evaluation.records import Features, Record
from imagen_video.metrics.frechet import SIZES, Target, estimated, extrapolated
from imagen_video.metrics.measures import student, wilson

LOWER, HIGHER, EQUAL = "lower", "higher", "as true clips"
LOSSLESS = 60.0
"""Decibels that no PSNR counts above: one clip that stands still would outweigh all others."""
HALVES = 50
"""Draws of half of the videos for the interval of KID and of what counts neighbours."""
ENOUGH = 4
"""Prompts for each number of a feature, from which the extrapolation of a distance holds."""


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


def stacked(records: Sequence[Record]) -> Tensor:
    """The frame features of many clips as (clips, frames, d)."""
    return Features.of(records).frames


def vectors(records: Sequence[Record]) -> Tensor:
    """One vector a clip: its frame features averaged."""
    return stacked(records).mean(1)


def together(rows: Tensor, repeats: int) -> Tensor:
    """What samples of all prompts, `repeats` times over, have (n, ...), as (prompts, repeats, ...):
    samples of one prompt are alike, and intervals draw prompts again. Of a single prompt they draw
    its videos."""
    if len(rows) == repeats:
        repeats = 1
    return rows.unflatten(0, (repeats, -1)).transpose(0, 1)


def frechet(
    name: str,
    rows: tuple[Tensor, Tensor | None],
    target: Target,
    *,
    proxy: bool,
    seed: int,
    repeats: int = 1,
) -> list[Measure]:
    """The Frechet distance of samples, and of true clips beside it, both as (videos, vectors a
    video, d); and followed to endless videos, where there are enough."""
    of, truth = len(rows[0]), rows[1]
    samples = together(rows[0], repeats).flatten(1, 2)
    # Frames of a video, and videos of a prompt, are alike: they do not make many of few.
    count, d = len(samples), samples.shape[2]
    if count <= d:
        warnings.warn(
            f"{name} of the videos of {count} prompts, by features of {d} numbers, is too large: "
            "compare it only with others of as many, or take more videos (--count of a cascade)",
            stacklevel=2,
        )
    found = estimated(target, samples, seed)
    common = {"of": of, "better": LOWER, "proxy": proxy}
    true = None if truth is None else target.of(truth.flatten(0, 1))
    spread = {"value": found.value, "low": found.low, "high": found.high}
    measures = [Measure(name=name, truth=true, **spread, **common)]
    if len(samples) >= max(ENOUGH * d, 2 * SIZES):
        endless, true = (
            None if some is None else extrapolated(target, some, seed) for some in (samples, truth)
        )
        assert endless is not None
        measures.append(Measure(name=f"{name}, endless", value=endless, truth=true, **common))
    return measures


def by_halves(
    statistic: Callable[[Tensor], float],
    count: int,
    seed: int,
    *,
    fewest: int,
    least: float = -math.inf,
    most: float = math.inf,
) -> dict[str, float | None]:
    """Value and interval of what cannot stand a video twice: halves of `count` prompts are drawn
    without putting back, which spread as the whole does (a delete-half jackknife). The statistic
    takes the numbers of those drawn. No interval where a half has not the `fewest` that it takes;
    none beyond the `least` and the `most` that it can be."""
    value = statistic(torch.arange(count))
    half = count // 2
    if half < fewest:
        return {"value": value}
    generator = torch.Generator().manual_seed(seed)
    draws = torch.tensor(
        [statistic(torch.randperm(count, generator=generator)[:half]) for _ in range(HALVES)],
        dtype=torch.float64,
    )
    low, high = (draws - draws.mean()).quantile(draws.new_tensor([0.025, 0.975])).tolist()
    return {"value": value, "low": max(least, value + low), "high": min(most, value + high)}


def mean_of(
    name: str,
    values: list[float],
    truth: list[float],
    *,
    better: str,
    proxy: bool = False,
    repeats: int = 1,
) -> Measure:
    """A mean over videos with Student's interval: a bootstrap of few is too narrow."""
    rows = together(torch.tensor(values, dtype=torch.float64), repeats).mean(1)
    low = high = None
    if len(rows) > 1:
        low, high = student(rows.mean().item(), rows.std().item(), len(rows))
    return Measure(
        name=name,
        value=rows.mean().item(),
        low=low,
        high=high,
        of=len(values),
        truth=sum(truth) / len(truth) if truth else None,
        better=better,
        proxy=proxy,
    )


def share_of(
    name: str,
    right: Sequence[bool] | Sequence[float],
    truth: Sequence[bool] | Sequence[float],
    *,
    proxy: bool = False,
    repeats: int = 1,
) -> Measure:
    """A share of right answers in per cent, with its Wilson interval (wide enough for answers that
    are right in part); where prompts come several
    times, with that of prompts drawn again, if it is wider."""
    low, high = wilson(sum(right), len(right))
    if repeats > 1:
        again = mean_of(name, [float(r) for r in right], [], better=HIGHER, repeats=repeats)
        low = low if again.low is None else min(low, again.low)
        high = high if again.high is None else max(high, again.high)
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


def fidelities(records: Sequence[Record], repeats: int) -> list[Measure]:
    """How near to the truth a stage came on true input, as far as that was measured: PSNR, of
    clips that are all but equal LOSSLESS, and the like."""
    most = {"psnr": LOSSLESS, "interpolated": LOSSLESS, "ssim": 1.0, "vmaf": 100.0}
    found = {
        name: [min(r.facts[name], most[name]) for r in records]
        for name in most
        if records and all(name in r.facts for r in records)
    }
    return [mean_of(n, rows, [], better=HIGHER, repeats=repeats) for n, rows in found.items()]


def own_error(
    sets: Sequence[Sequence[Record]],
    targets: Mapping[str, Target],
    *,
    proxies: Mapping[str, bool],
    seed: int,
    repeats: int = 1,
) -> list[Measure]:
    """A stage on true input: its fidelity, and its distances; `sets` are those videos, the
    cascade's and the true clips of the former. What the cascade's distance has beside that of the
    stage alone is inherited, what that has beside the true clips' is what the stage adds. All of
    them are drawn together."""
    own, samples, _ = sets
    count = min(map(len, sets))
    repeats = repeats if count == len(samples) == len(own) else 1
    found = fidelities(own, repeats)
    for name, target in targets.items():
        vectors = [features_for(name, some[:count]) for some in sets]
        alone, whole, true = (together(rows, repeats).flatten(1, 2) for rows in vectors)
        common: Any = {"of": count, "better": LOWER, "proxy": proxies[name]}
        for label, rows in (("alone", alone), ("in the cascade", whole)):
            e = estimated(target, rows, seed)
            spread = {"value": e.value, "low": e.low, "high": e.high}
            found.append(Measure(name=f"{name} {label}", **spread, **common))
        for label, more, less in (("inherited", whole, alone), ("added", alone, true)):
            spread = by_halves(further(target, more, less), len(more), seed, fewest=2)
            found.append(Measure(name=f"{name} {label}", **spread, **common))
    return found


def further(target: Target, a: Tensor, b: Tensor) -> Callable[[Tensor], float]:
    """How much further from the target some of `a` are than the same of `b`."""

    def found(chosen: Tensor) -> float:
        first, second = (target.of(rows[chosen].flatten(0, 1)) for rows in (a, b))
        return first - second

    return found


def features_for(name: str, records: Sequence[Record]) -> Tensor:
    """What FID or FVD compares, as (clips, vectors a clip, d)."""
    return stacked(records) if name == "FID" else Features.of(records).clips[:, None]


def told(records: Sequence[Record], fact: str) -> list[tuple[str, str]]:
    """(asked for, seen) of every record that has both."""
    return [
        (record.facts["asked"][fact], record.facts["answers"][fact])
        for record in records
        if fact in record.facts.get("asked", {}) and fact in record.facts.get("answers", {})
    ]


def questions(records: Sequence[Record]) -> list[str]:
    """What some prompt names and a judge tells of its video."""
    return list(
        dict.fromkeys(
            fact
            for record in records
            for fact in record.facts.get("answers", {})
            if fact in record.facts.get("asked", {})
        )
    )


def judged(samples: Sequence[Record], truth: Sequence[Record], repeats: int = 1) -> list[Measure]:
    """How often the judges see what was asked for."""

    def right(records: Sequence[Record], fact: str) -> list[bool]:
        return [asked == seen for asked, seen in told(records, fact)]

    return [
        share_of(f, right(samples, f), right(truth, f), repeats=repeats) for f in questions(samples)
    ]
