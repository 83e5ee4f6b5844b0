"""How sure a number is: intervals over seeds, and shares against those of the data."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from imagen_video.metrics.measures import student

RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval, unbounded for a single value."""

    mean: float
    low: float
    high: float
    of: int

    def __str__(self) -> str:
        spread = f" ({self.low:.3g} to {self.high:.3g})" if self.of > 1 else ""
        return f"{self.mean:.3g}{spread}"


def over_seeds(
    values: Sequence[float], least: float = -math.inf, most: float = math.inf
) -> Interval:
    """The mean over seeds, and Student's interval of it within the `least` and the `most` that it
    can be; ValueError for none."""
    count = len(values)
    if not count:
        raise ValueError("an interval over seeds takes a value or more, got none")
    mean = sum(values) / count
    if count == 1:
        return Interval(mean, -math.inf, math.inf, 1)
    variance = sum((value - mean) ** 2 for value in values) / (count - 1)
    low, high = student(mean, math.sqrt(variance), count)
    return Interval(mean, max(least, low), min(most, high), count)


def difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Interval | None:
    """Ours less theirs, seed by seed: seeds share data and noise. None without a common seed."""
    seeds = sorted(ours.keys() & theirs.keys())
    return over_seeds([ours[s] - theirs[s] for s in seeds]) if seeds else None


def total_variation(shares: Sequence[float], expected: Sequence[float]) -> float:
    """Half the sum of absolute differences: how much of the mass lies elsewhere."""
    return sum(abs(a - b) for a, b in zip(shares, expected, strict=True)) / 2


@dataclass(frozen=True)
class Departure:
    """How far counts are from expected shares: total variation with its bootstrap interval, the
    one that as many draws from the data itself would show, and Pearson's chi-square test."""

    variation: float
    low: float
    high: float
    by_chance: float
    chi_square: float
    p: float


def departure(counts: Mapping[str, int], expected: Mapping[str, float]) -> Departure:
    """Of counts by value from the data's shares; a value that the data lacks is infinitely far in
    chi-square. ValueError where there is nothing to count or nothing expected."""
    total, mass = sum(counts.values()), sum(expected.values())
    if not total or not mass > 0:
        raise ValueError(f"cannot compare {total} samples with shares that sum to {mass}")
    names = sorted(counts.keys() | expected.keys())
    seen = torch.tensor([counts.get(name, 0) for name in names], dtype=torch.float64)
    data = torch.tensor([expected.get(name, 0.0) / mass for name in names], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)

    def drawn(shares: torch.Tensor) -> torch.Tensor:
        """Total variations of as many samples drawn again."""
        chosen = torch.multinomial(
            shares.expand(RESAMPLES, -1), total, replacement=True, generator=generator
        )
        again = torch.nn.functional.one_hot(chosen, len(names)).double().mean(1)
        return (again - data).abs().sum(1) / 2

    found, again = total_variation((seen / total).tolist(), data.tolist()), drawn(seen / total)
    # Drawn again, samples are further away: the interval is put around the value itself.
    low, high = (found + (again - again.mean()).quantile(seen.new_tensor([0.025, 0.975]))).tolist()
    wanted = total * data
    terms = torch.where(wanted > 0, (seen - wanted).square() / wanted, torch.inf)
    chi_square = terms[(seen > 0) | (wanted > 0)].sum()
    freedom = torch.tensor(max(1, int((data > 0).sum()) - 1), dtype=torch.float64)
    p = torch.special.gammaincc(freedom / 2, chi_square / 2)
    return Departure(
        found,
        max(0.0, low),
        high,
        drawn(data).mean().item(),
        chi_square.item(),
        p.item() if chi_square.isfinite() else 0.0,
    )
