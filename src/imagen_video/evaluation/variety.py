"""How varied samples are, and how near to true clips each: KID, neighbours and Vendi scores, over
one vector a video."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from imagen_video.evaluation.records import Record
from imagen_video.evaluation.scores import (
    EQUAL,
    HIGHER,
    Measure,
    by_halves,
    mean_of,
    together,
    vectors,
)
from imagen_video.metrics import diversity
from imagen_video.metrics.measures import wilson
from imagen_video.shapes import Float

NEIGHBOURS = ("precision", "recall", "density", "coverage")
MANY = 50
"""Videos from which on it is worth asking for their neighbours."""


@dataclass(frozen=True)
class Shown:
    """One vector a video, and what each shows, in words."""

    rows: Float[Tensor, "v d"]
    of: Sequence[str]

    def __len__(self) -> int:
        return len(self.rows)

    def chosen(self, which: Tensor) -> "Shown":
        """Some of them."""
        return Shown(self.rows[which], [self.of[i] for i in map(int, which)])

    def by_prompt(self) -> dict[str, Tensor]:
        """The vectors of each."""
        return {text: self.rows[found] for text, found in places_of(self.of).items()}


def places_of(texts: Sequence[str]) -> dict[str, list[int]]:
    """Where each text stands."""
    found: dict[str, list[int]] = {}
    for i, text in enumerate(texts):
        found.setdefault(text, []).append(i)
    return found


def neighbours(
    samples: Shown,
    truth: Shown | None,
    real: Shown,
    *,
    proxy: bool,
    seed: int,
    repeats: int = 1,
) -> list[Measure]:
    """KID, precision, recall, density and coverage."""
    common = {"of": len(samples), "proxy": proxy}
    places = together(torch.arange(len(samples)), repeats)

    def kid(some: Shown) -> float:
        return diversity.kernel_distance(some.rows, real.rows, (some.of, real.of))

    true = None if truth is None else kid(truth)
    spread = by_halves(
        lambda half: kid(samples.chosen(places[half].flatten())),
        len(places),
        seed,
        fewest=2,
    )
    found = [Measure(name="KID", truth=true, better=EQUAL, **spread, **common)]
    fewest = min(len(samples), len(real))
    if fewest < MANY:
        remedy = f"{MANY} or more of both tell something"
        if fewest <= diversity.NEAREST:
            remedy = f"they are not measured, they need {diversity.NEAREST + 1} of both"
        warnings.warn(
            f"precision, recall, density and coverage of {len(samples)} videos and {len(real)} "
            f"reference clips: {remedy}",
            stacklevel=2,
        )
    if fewest <= diversity.NEAREST:
        return found
    theirs = {} if truth is None else diversity.coverage_of(truth.rows, real.rows)
    for name in NEIGHBOURS:

        def share(half: Tensor, name: str = name) -> float:
            return diversity.coverage_of(samples.rows[places[half].flatten()], real.rows)[name]

        fewest = -(-(diversity.NEAREST + 1) // places.shape[1])
        bounds = {"least": 0.0, "most": math.inf if name == "density" else 1.0}
        spread = by_halves(share, len(places), seed, fewest=fewest, **bounds)
        if name != "density":
            spread = _wider(spread, len(places) if name == "precision" else len(real))
        found.append(Measure(name=name, truth=theirs.get(name), better=HIGHER, **spread, **common))
    return [*found, *within_prompts(samples, truth, real, proxy=proxy)]


def within_prompts(
    samples: Shown, truth: Shown | None, real: Shown, *, proxy: bool
) -> list[Measure]:
    """The same of the videos of one prompt and the true clips of it, averaged over the prompts
    that have enough of both: how varied the seeds of a prompt are."""
    ours, theirs = samples.by_prompt(), real.by_prompt()
    true = {} if truth is None else truth.by_prompt()

    def enough(text: str, *sets: dict[str, Tensor]) -> bool:
        return all(len(some.get(text, ())) > diversity.NEAREST for some in sets)

    def found(some: dict[str, Tensor], name: str) -> list[float]:
        return [
            diversity.coverage_of(some[text], theirs[text])[name]
            for text in ours
            if text and enough(text, ours, theirs, some)
        ]

    several = sum(len(rows) > 1 for text, rows in ours.items() if text)
    if several and not any(enough(text, ours, theirs) for text in ours if text):
        need = diversity.NEAREST + 1
        warnings.warn(
            f"precision, recall, density and coverage of one prompt need {need} videos and {need} "
            f"reference clips of it: give --seeds {need} and --reference-clips "
            f"{need * len(ours)} or more (of the sticker world)",
            stacklevel=2,
        )
    return [
        mean_of(f"{name} of one prompt", values, found(true, name), better=HIGHER, proxy=proxy)
        for name in NEIGHBOURS
        if (values := found(ours, name))
    ]


def varieties(
    samples: Sequence[Record],
    truth: Sequence[Record],
    *,
    proxy: bool,
    seed: int,
    repeats: int = 1,
) -> list[Measure]:
    """Vendi scores: of all videos, and of those of one prompt where some have several."""
    common = {"better": EQUAL, "proxy": proxy}
    rows, true = vectors(samples), diversity.vendi(vectors(truth)) if truth else None
    places = together(torch.arange(len(samples)), repeats)

    def entropy(half: Tensor) -> float:
        # Of which a half has less by the same amount wherever it is drawn; a score, by a share.
        return math.log(diversity.vendi(rows[places[half].flatten()]))

    spread = by_halves(entropy, len(places), seed, fewest=2, least=0.0, most=math.log(len(rows)))
    score = {name: None if e is None else math.exp(e) for name, e in spread.items()}
    found = [Measure(name="Vendi", truth=true, of=len(samples), **score, **common)]
    groups = places_of([record.facts["prompt"] for record in samples])
    several = [group for text, group in groups.items() if text and len(group) > 1]
    if several:
        ours, theirs = (
            [diversity.vendi(vectors([some[i] for i in group])) for group in several if some]
            for some in (samples, truth if _alike(samples, truth) else [])
        )
        found.append(mean_of("Vendi of one prompt", ours, theirs, **common))
    return found


def _wider(spread: dict[str, float | None], of: int) -> dict[str, float | None]:
    """Of a share, with Wilson's interval of that many, if it is wider: where none or all are among
    the others, so are those of every half."""
    value, low, high = (spread.get(name) for name in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return spread
    least, most = wilson(value * of, of)
    return {"value": value, "low": min(low, least), "high": max(high, most)}


def _alike(samples: Sequence[Record], truth: Sequence[Record]) -> bool:
    """Whether true clip i shows what sample i was asked for."""
    asked = ([record.facts.get("asked") for record in some] for some in (samples, truth))
    return len(samples) == len(truth) and all(a and a == b for a, b in zip(*asked, strict=True))
