"""Training data drawn once and read many times: small networks learn faster than it is rendered.

A set is one file of 8-bit clips and stills; what number i shows is `Draw`'s to say, so a file
holds pixels alone. It is made by whoever needs it first.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from imagen_video.data.clips import Crop, Example, Position
from imagen_video.data.order import fraction
from imagen_video.data.stickers import render
from imagen_video.data.stickers.motions import SOLID_MOTIONS
from imagen_video.data.stickers.scene import Attributes
from imagen_video.data.stickers.splits import digest
from imagen_video.files import replacing
from imagen_video.video import Frames, VideoFormat
from study.world import MOTIONS, PARTS, TURNING_STYLE, Draw, DrawWords, caption, scene

SECONDS = 16 / 3
BASE = VideoFormat(8, 24, 24, 8 / SECONDS)
FINE = VideoFormat(8, 48, 48, 8 / SECONDS)
WIDE = VideoFormat(8, 192, 320, 8 / SECONDS)
PART = 256
"""Scenes rendered by one call of a worker."""


@dataclass(frozen=True, kw_only=True)
class Library:
    """A set by name: what it shows, how large, how much of it. With `crop_of` it shows parts of
    `format` of clips that are so large."""

    name: str
    draw: Draw | DrawWords = field(default_factory=Draw)
    format: VideoFormat = BASE
    crop_of: VideoFormat | None = None
    clips: int
    stills: int = 0
    first: int = 0
    """Numbers of scenes begin here: sets that share none have different ones."""

    def picture(self, kind: str, index: int) -> Frames:
        """Clip or still `index`, rendered."""
        number = self.first + index
        facts = self.draw.clip(number) if kind == "clips" else self.draw.still(number)
        frames = self.format.frames if kind == "clips" else 1
        whole, (height, width) = self.crop_of or self.format, self.format.size
        top = left = 0
        if self.crop_of is not None:
            # About the middle, where the thing is.
            top, left = (
                side // 4 + int(fraction(number, axis) * (side // 2 - part))
                for axis, (side, part) in enumerate(zip(whole.size, (height, width), strict=True))
            )
        made = scene(facts, 2 * number + (kind == "clips"), whole)
        return render(made, whole, crop=Crop(0, top, left, frames, height, width))

    def part(self, kind: str, start: int) -> Tensor:
        """PART pictures from one number on."""
        torch.set_num_threads(1)
        stop = min(start + PART, getattr(self, kind))
        return torch.stack([self.picture(kind, i) for i in range(start, stop)])

    def path(self, folder: Path) -> Path:
        return folder / f"{self.name.replace(' ', '-')}.safetensors"

    def opened(self, folder: Path) -> dict[str, Tensor]:
        """The pixels, which `render_missing` has rendered."""
        return load_file(self.path(folder))

    def facts(self, kind: str) -> list[Attributes]:
        """What every clip or still shows."""
        tell = self.draw.clip if kind == "clips" else self.draw.still
        return told(tell, self.first, getattr(self, kind))


@cache
def told(tell: Callable[[int], Attributes], first: int, count: int) -> list[Attributes]:
    return [tell(first + i) for i in range(count)]


def render_missing(libraries: Iterable[Library], folder: Path, workers: int) -> None:
    """Render those whose file is not there, in several processes."""
    missing = [library for library in libraries if not library.path(folder).exists()]
    jobs = [
        (library, kind, start)
        for library in missing
        for kind in ("clips", "stills")
        for start in range(0, getattr(library, kind), PART)
    ]
    if not jobs:
        return
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, list[Tensor]]] = {}
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        parts = pool.map(rendered, jobs)
        for (library, kind, _), part in zip(jobs, parts, strict=True):
            found.setdefault(library.name, {}).setdefault(kind, []).append(torch.from_numpy(part))
    for library in missing:
        with replacing(library.path(folder)) as path:
            save_file({k: torch.cat(v) for k, v in found[library.name].items()}, path)


def rendered(job: tuple[Library, str, int]) -> np.ndarray:
    """A part of a library, as what goes between processes without shared memory."""
    library, kind, start = job
    return library.part(kind, start).numpy()


LIBRARIES = {
    library.name: library
    for library in (
        Library(name="base", clips=6144, stills=8192),
        Library(name="fine", format=FINE, clips=2048),
        Library(name="crops", format=FINE, crop_of=WIDE, clips=2048),
        Library(
            name="turning",
            draw=Draw(
                styles=(TURNING_STYLE,),
                motions=(*MOTIONS, *SOLID_MOTIONS),
                still_styles=(TURNING_STYLE,),
            ),
            clips=3072,
            stills=2048,
        ),
        Library(name="words", draw=DrawWords(), clips=2048, stills=4096),
        Library(name="truth", clips=1024, first=10**6),
        Library(name="fine truth", format=FINE, clips=1024, first=10**6),
        Library(name="crop truth", format=FINE, crop_of=WIDE, clips=512, first=10**6),
    )
}

Share = Callable[[Attributes], float]
"""How often training takes what shows this: 0 never, 1 whenever it comes."""


@dataclass(frozen=True, kw_only=True)
class Diet:
    """What an arm is fed: a library, which part of it, and what its captions leave unsaid."""

    library: str
    clips: Share
    stills: Share
    unsaid: float = 0.0
    """The probability that a caption leaves out its style; its motion; its ground."""
    untold: bool = False
    """Captions say nothing at all."""

    def caption(self, facts: Attributes, index: int) -> str:
        if self.untold:
            return ""
        if not self.unsaid:
            return caption(facts)
        drawn = {part: digest("unsaid", part, str(index)) for part in PARTS}
        return caption(facts, [part for part in PARTS if drawn[part] < self.unsaid])

    def chosen(self, kind: str) -> list[int]:
        """Which clips or stills of the library it is fed."""
        share: Share = getattr(self, kind)
        return [
            i
            for i, facts in enumerate(LIBRARIES[self.library].facts(kind))
            if digest("share", kind, str(i)) < share(facts)
        ]

    def captions(self) -> set[str]:
        """Every caption that training may show."""
        texts: set[str] = set()
        for kind in ("clips", "stills"):
            facts = LIBRARIES[self.library].facts(kind)
            texts.update(self.caption(facts[i], i) for i in self.chosen(kind))
        return texts


class Shelf:
    """A source of examples (`imagen_video.data.clips.Source`) that reads a library."""

    kinds = frozenset({"video", "image"})

    def __init__(self, diet: Diet, pixels: dict[str, Tensor], seed: int):
        self.diet, self.pixels, self.seed = diet, pixels, seed
        library = LIBRARIES[diet.library]
        self.facts = {kind: library.facts(kind) for kind in ("clips", "stills")}
        self.chosen = {kind: diet.chosen(kind) for kind in ("clips", "stills")}

    def clip(self, index: int, format: VideoFormat, crop: Crop) -> Example:
        return self._example("clips", index)

    def image(self, index: int, format: VideoFormat, crop: Crop) -> Example:
        return self._example("stills", index)

    def _example(self, kind: str, index: int) -> Example:
        chosen = self.chosen[kind]
        place = chosen[int(len(chosen) * fraction(self.seed, kind == "clips", index))]
        facts = self.facts[kind][place]
        return Example(self.pixels[kind][place], self.diet.caption(facts, place), facts.known())

    def position(self, clips: int, stills: int) -> dict[str, Position]:
        return {self.diet.library: Position(clips, stills)}
