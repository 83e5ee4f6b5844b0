"""Frechet distance between Gaussians fitted to features: the core of FID and FVD.

Everything is in float64, over running moments that add up over batches and processes. The trace of
the matrix root comes from eigenvalues of symmetric matrices: roots of the product itself
(`scipy.linalg.sqrtm`) differ between versions and may be complex.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from imagen_video.shapes import Float

RESAMPLES, PART = 50, 0.75
"""Draws for an interval, and which part of the videos each has."""
SIZES = 8
"""Sample sizes, from half to all, that the extrapolation to endless samples is fitted on."""


@dataclass(frozen=True)
class Moments:
    """How many feature vectors there were, their mean, and the sum of outer products about it."""

    count: int
    mean: Float[Tensor, " d"]
    scatter: Float[Tensor, "d d"]

    @classmethod
    def of(cls, features: Float[Tensor, "n d"]) -> "Moments":
        """Of a batch of one or more vectors; ValueError for vectors that are not finite."""
        if len(features) == 0:
            raise ValueError("no features: moments need at least one sample")
        if not features.isfinite().all():
            raise ValueError("features are not finite: is the video (or the extractor) broken?")
        rows = features.double()
        mean = rows.mean(0)
        rows = rows - mean
        return cls(len(rows), mean, rows.T @ rows)

    def __add__(self, other: "Moments") -> "Moments":
        """Of both together (Chan et al. 1983); the order changes nothing but rounding."""
        if self.mean.shape != other.mean.shape:
            raise ValueError(
                f"features of {len(self.mean)} and {len(other.mean)} numbers do not go together: "
                "use one extractor for both"
            )
        count = self.count + other.count
        apart = other.mean - self.mean
        mean = self.mean + apart * (other.count / count)
        between = torch.outer(apart, apart) * (self.count * other.count / count)
        return Moments(count, mean, self.scatter + other.scatter + between)

    @property
    def covariance(self) -> Float[Tensor, "d d"]:
        """Unbiased; ValueError for a single sample."""
        if self.count < 2:
            raise ValueError(f"a covariance needs two samples or more, got {self.count}")
        return self.scatter / (self.count - 1)


def frechet_distance(a: Moments, b: Moments) -> float:
    """|mean a - mean b|^2 + tr(A + B - 2 (A B)^(1/2)), A and B the covariances."""
    return Target(b).distance(a.mean, a.covariance)


class Target:
    """What samples are compared with, its covariance's root taken once."""

    def __init__(self, moments: Moments):
        self.moments = moments
        values, vectors = torch.linalg.eigh(moments.covariance)
        self.root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
        self.trace = values.clamp(min=0).sum()
        if moments.count <= len(moments.mean):
            warnings.warn(
                f"{moments.count} reference samples of {len(moments.mean)} features each: the "
                "Frechet distance comes out too large; take more reference clips",
                stacklevel=2,
            )

    def distance(self, mean: Float[Tensor, " d"], covariance: Float[Tensor, "d d"]) -> float:
        return self._distance(mean, covariance.trace(), self.root @ covariance @ self.root)

    def of(self, features: Float[Tensor, "n d"]) -> float:
        """The distance of these samples' Gaussian; for few samples through their Gram matrix."""
        if len(features) < 2:
            raise ValueError(f"a Frechet distance needs two samples or more, got {len(features)}")
        if not features.isfinite().all():
            raise ValueError("features are not finite: is the video (or the extractor) broken?")
        if len(features) >= features.shape[1]:
            moments = Moments.of(features)
            return self.distance(moments.mean, moments.covariance)
        rows = features.double()
        mean = rows.mean(0)
        rows = (rows - mean) / (len(rows) - 1) ** 0.5
        seen = rows @ self.root
        return self._distance(mean, rows.square().sum(), seen @ seen.T)

    def _distance(self, mean: Tensor, trace: Tensor, product: Tensor) -> float:
        roots = torch.linalg.eigvalsh(product).clamp(min=0).sqrt().sum()
        apart = (mean - self.moments.mean).square().sum()
        return max(0.0, (apart + trace + self.trace - 2 * roots).item())


@dataclass(frozen=True)
class Estimate:
    """A measured number, its 95 % interval if there is one, and of how many samples."""

    value: float
    low: float | None
    high: float | None
    of: int


def estimated(
    target: Target, features: Float[Tensor, "v n d"], seed: int, resamples: int = RESAMPLES
) -> Estimate:
    """The distance of v videos with n feature vectors each, and how sure it is of those videos.

    Videos are drawn, not frames: those of one video are alike. Three quarters of them at a time,
    without putting back (a delete-d jackknife): drawn with putting back, as a bootstrap does, few
    videos of many features lose so much diversity that intervals come out three times too wide. It
    is put around the distance itself: 1.96 standard deviations, which few draws tell better than
    they tell their own outermost ones. None where so few videos have no covariance.
    """
    whole, count = target.of(features.flatten(0, 1)), len(features)
    part = min(count - 1, round(count * PART))
    if part * features.shape[1] < 2:
        return Estimate(whole, None, None, count)
    generator = torch.Generator().manual_seed(seed)
    draws = [
        target.of(features[torch.randperm(count, generator=generator)[:part]].flatten(0, 1))
        for _ in range(resamples)
    ]
    spread = torch.tensor(draws, dtype=torch.float64).std().item()
    half = 1.96 * spread * (part / (count - part)) ** 0.5
    return Estimate(whole, max(0.0, whole - half), whole + half, count)


def extrapolated(target: Target, features: Float[Tensor, "v n d"], seed: int) -> float:
    """The distance that endless samples would have: few samples come out too far, by a term in
    1 / v, so a line over it is followed to 0 (Chong and Forsyth 2020). It can be below 0; with
    fewer than some four vectors for each of their numbers the term is another and it is too large.
    """
    if len(features) < 2 * SIZES:
        raise ValueError(
            f"an extrapolation over sample sizes needs {2 * SIZES} videos or more, "
            f"got {len(features)}"
        )
    sizes = torch.linspace(len(features) / 2, len(features), SIZES).round().long()
    generator = torch.Generator().manual_seed(seed)
    distances = [target.of(rows) for rows in _subsets(features, sizes.tolist(), generator)]
    inverse = torch.stack([1 / sizes.double(), torch.ones(SIZES, dtype=torch.float64)], 1)
    line = torch.linalg.lstsq(inverse, torch.tensor(distances, dtype=torch.float64)[:, None])
    return line.solution[1].item()


def _subsets(
    features: Tensor, sizes: list[int], generator: torch.Generator
) -> Iterator[Float[Tensor, "m d"]]:
    for size in sizes:
        chosen = torch.randperm(len(features), generator=generator)[:size]
        yield features[chosen].flatten(0, 1)
