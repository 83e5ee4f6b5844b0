"""Rows of a table over the same prompts and seeds, each beside another, with paired intervals."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from imagen_video.metrics.frechet import PART, Target

DISTANCES = ("FID", "FVD")
DRAWS, FEWER = 1000, 50
"""Draws of prompts for the interval of a mean, and for that of a distance."""


@dataclass(frozen=True)
class Row:
    """What is known of each video of a row, and of their distribution."""

    fits: Tensor
    hits: Tensor
    frames: Tensor
    clips: Tensor
    seconds: float
    flops: float


@dataclass(frozen=True)
class Paired:
    """What rows of `count` prompts, seed after seed, are compared by: true frames and clips."""

    frames: Target
    clips: Target
    count: int
    seeds: int

    def measures(self, row: Row) -> dict[str, tuple[Callable[[Tensor], float], int]]:
        """Each as a function of which videos are taken, and how often they are drawn again."""
        frames, clips = self.frames, self.clips
        return {
            "fit": (lambda i: row.fits[i].mean().item(), DRAWS),
            "R-precision": (lambda i: row.hits[i].mean().item(), DRAWS),
            "FID": (lambda i: frames.of(row.frames[i].flatten(0, 1)), FEWER),
            "FVD": (lambda i: clips.of(row.clips[i]), FEWER),
        }

    def line(self, name: str, row: Row, teacher: Row | None) -> list[str]:
        """The cells of a row: values, and differences to the teacher with their intervals."""
        cells, every = [name], torch.arange(len(row.fits))
        before = self.measures(teacher) if teacher else {}
        for what, (statistic, draws) in self.measures(row).items():
            cell = f"{statistic(every):.4g}"
            if what in before:
                other = before[what][0]
                apart = statistic(every) - other(every)
                half = 1.96 * self._spread(lambda i, s=statistic, o=other: s(i) - o(i), draws)
                share = f"; {100 * apart / other(every):+.0f} %" if what in DISTANCES else ""
                cell += f" ({apart:+.3g} ± {half:.2g}{share})"
            cells.append(cell)
        cost = [f"{row.seconds:.1f}", f"{row.flops / 1e12:.2f}"] if row.flops else ["", ""]
        return cells + cost

    def _spread(self, difference: Callable[[Tensor], float], draws: int) -> float:
        """Standard deviation over parts of the prompts, with all of their seeds: drawn with putting
        back, distances would spread three times as far as they do."""
        generator, count = torch.Generator().manual_seed(0), self.count
        place, part = torch.arange(count * self.seeds).view(-1, count), round(count * PART)
        found = [
            difference(place[:, torch.randperm(count, generator=generator)[:part]].flatten())
            for _ in range(draws)
        ]
        spread = torch.tensor(found, dtype=torch.float64).std().item()
        return spread * (part / (count - part)) ** 0.5
