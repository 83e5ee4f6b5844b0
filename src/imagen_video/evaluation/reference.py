"""What samples are compared with: true clips of the same kind, at every stage's format."""

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from imagen_video.data.bad_samples import BadSamples
from imagen_video.data.clips import Crop, Example, Source
from imagen_video.data.sources import open_source
from imagen_video.data.stickers import Scene, StickerWorld, render, scene_for
from imagen_video.data.stickers.evaluation import FIELDS
from imagen_video.data.stickers.motions import SOLID_MOTIONS
from imagen_video.data.stickers.scene import staged
from imagen_video.data.stickers.solid import SPACING, solid_view
from imagen_video.evaluation.prompts import Prompt
from imagen_video.metrics.rotation import turning
from imagen_video.video import Frames, VideoFormat

VIEWS, SIDE = 72, 48
"""Rendered views of a solid around its axis, and their pixels, that its turn is told by."""
LAYOUT = 10_000
"""Seeds of true scenes begin here: no generated video is compared with its own."""


@runtime_checkable
class Reference(Protocol):
    """Endless true clips: the same index is the same clip at every format."""

    def clip(self, index: int, format: VideoFormat, frames: Sequence[int]) -> Example:
        """These frames of clip `index`, in order."""
        ...


@dataclass(frozen=True)
class StickerReference:
    """True clips of what the prompts ask for, in turn, laid out anew each time: the word of a
    prompt that names one; of prompts that do not name all four facts of the world, any single
    object of the test split."""

    prompts: Sequence[Prompt]

    def clip(self, index: int, format: VideoFormat, frames: Sequence[int]) -> Example:
        scene = self._scene(index)
        parts = [render(scene, format, crop=crop) for crop in stretches(frames, format)]
        names = ("background", "word") if scene.attributes.word else FIELDS
        facts = {name: getattr(scene.attributes, name) for name in names}
        return Example(torch.cat(parts), scene.caption, facts)

    def _scene(self, index: int) -> Scene:
        facts = self.prompts[index % len(self.prompts)].facts
        if "word" in facts:
            return lettering(facts["word"].upper(), index)
        if not set(FIELDS) <= set(facts):
            return held_out_scene("flat", index)
        return scene_for(**{name: facts[name] for name in FIELDS}, seed=LAYOUT + index)


@dataclass(frozen=True)
class DataReference:
    """Clips of a user's own data, as training reads them, cropped in the middle."""

    source: Source

    @classmethod
    def of(cls, names: Sequence[str], out: Path) -> "DataReference":
        bad = BadSamples(out / "bad_samples.jsonl")
        source = open_source(names, seed=0, bad=bad, cropping="centre", captioned=False)
        if "video" not in source.kinds:
            raise ValueError(f"the reference {' '.join(names)} holds no videos: name some that do")
        return cls(source)

    def repeats(self, clips: int) -> bool:
        """Whether the first so many clips show some of them twice."""
        return any(place.clip_epoch for place in self.source.position(clips - 1, 0).values())

    def clip(self, index: int, format: VideoFormat, frames: Sequence[int]) -> Example:
        first, count = frames[0], frames[-1] + 1 - frames[0]
        crop = Crop(first, 0, 0, count, format.height, format.width)
        found = self.source.clip(index, format, crop)
        return replace(found, video=found.video[[frame - first for frame in frames]])


def stretches(frames: Sequence[int], format: VideoFormat) -> Iterator[Crop]:
    """Frames as whole pictures, those in a row together: others need not be drawn."""
    first = 0
    for i, frame in enumerate(frames):
        if i + 1 == len(frames) or frames[i + 1] != frame + 1:
            yield Crop(frames[first], 0, 0, i + 1 - first, format.height, format.width)
            first = i + 1


@functools.cache
def _indices(family: str, count: int) -> list[int]:
    """The first so many clips of a family in a test split."""
    world = StickerWorld(3, split="test")
    found = (i for i in itertools.count() if world.clip(i).attributes.family == family)
    return list(itertools.islice(found, count))


def held_out_scene(family: str, index: int) -> Scene:
    """Clip `index` of a family in a test split."""
    place = _indices(family, 64 * (index // 64 + 1))[index]
    return StickerWorld(3, split="test").clip(place)


def lettering(word: str, index: int) -> Scene:
    """A word, lettered and moved like word `index` of a test split."""
    facts = replace(held_out_scene("text", index).attributes, word=word)
    return staged(facts, np.random.Generator(np.random.Philox(key=[LAYOUT + index, 11])))


def rotation(clip: Frames, facts: Mapping[str, Any]) -> str | None:
    """Which way the thing turns that was asked for, by its rendered views, or "still"; None where
    no rotation was asked for."""
    if facts.get("motion") not in SOLID_MOTIONS or not {"concept", "style"} <= set(facts):
        return None
    left, right = SOLID_MOTIONS
    step = round(360 / SPACING / VIEWS)
    views = [solid_view(facts["concept"], facts["style"], step * i, SIDE) for i in range(VIEWS)]
    return ("still", right, left)[turning(clip, torch.stack(views))]
