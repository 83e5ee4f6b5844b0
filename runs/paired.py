"""Rows of a table over the same prompts and seeds, each beside another, with paired intervals.

    python runs/paired.py out/a/true-5c51d95f teacher=out/a/fbe66480 student=out/b/fbe66480

Of sticker prompts that sweeps sampled, the first row the one to compare with: Markdown.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from imagen_video.evaluation.asked import EvaluationSpec, tools_of
from imagen_video.evaluation.prompts import prompts_of
from imagen_video.evaluation.records import Features, Record
from imagen_video.evaluation.scores import stacked
from imagen_video.metrics.alignment import retrieved, score
from imagen_video.metrics.frechet import PART, Moments, Target

DISTANCES = ("FID", "FVD")
HEAD = ("", "fit (proxy)", "R-precision, %", "FID (proxy)", "FVD (proxy)", "s", "TFLOP")
DRAWS, FEWER = 1000, 50
"""Draws of prompts for the interval of a mean, and for that of a distance."""


@dataclass(frozen=True)
class Row:
    """What is known of each video of a row, and of their distribution."""

    fits: Tensor
    hits: Tensor
    frames: Tensor
    clips: Tensor
    seconds: float = 0.0
    flops: float = 0.0

    @classmethod
    def of(cls, records: Sequence[Record], captions: Tensor) -> "Row":
        """Of videos of the prompts that these captions are the vectors of, seed after seed."""
        own = [i % len(captions) for i in range(len(records))]
        fits = [score(r.aligned, captions[i]) for r, i in zip(records, own, strict=True)]
        hits = [retrieved(r.aligned, captions, i) for r, i in zip(records, own, strict=True)]
        return cls(
            torch.tensor(fits, dtype=torch.float64),
            100 * torch.tensor(hits, dtype=torch.float64),
            stacked(records),
            Features.of(records).clips,
        )


def records_in(folder: Path) -> list[Record]:
    """All of a folder, in order."""
    return [Record.load(path) for path in sorted(folder.glob("*.safetensors"))]


def captions_of(count: int) -> Tensor:
    """The vectors of so many sticker prompts, with which R-precision compares."""
    prompts = prompts_of("stickers", count)
    aligner = tools_of(EvaluationSpec(count=count), prompts).aligner
    assert aligner is not None, "the prompts are of the sticker world"
    return aligner.prompts([prompt.text for prompt in prompts])


@dataclass(frozen=True)
class Paired:
    """What rows of `count` prompts, seed after seed, are compared by: true frames and clips."""

    frames: Target
    clips: Target
    count: int
    seeds: int

    @classmethod
    def to(cls, truth: Path, count: int, seeds: int) -> "Paired":
        """To the true clips whose records are in a folder."""
        features = Features.of(records_in(truth))
        frames, clips = features.frames.flatten(0, 1), features.clips
        return cls(Target(Moments.of(frames)), Target(Moments.of(clips)), count, seeds)

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
        seconds = f"{row.seconds:.1f}" if row.seconds else ""
        return [*cells, seconds, f"{row.flops / 1e12:.2f}" if row.flops else ""]

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


def as_markdown(lines: Sequence[Sequence[str]]) -> str:
    """Rows of cells below their head."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (HEAD, ["---"] * len(HEAD), *lines))


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    [truth] = Path(sys.argv[1]).glob("records/reference/*")
    rows = dict(word.split("=", 1) for word in sys.argv[2:])
    records = {
        name: records_in(next(Path(at).glob("records/cascade/*"))) for name, at in rows.items()
    }
    asked = [[record.facts["prompt"] for record in own] for own in records.values()]
    if any(other != asked[0] for other in asked):
        sys.exit("rows are of other prompts, or not all finished")
    videos, count = len(asked[0]), len(set(asked[0]))
    paired, captions = Paired.to(truth, count, videos // count), captions_of(count)
    first, lines = None, []
    for name, own in records.items():
        row = Row.of(own, captions)
        lines.append(paired.line(name, row, first))
        first = first or row
    print(as_markdown(lines))


if __name__ == "__main__":
    main()
