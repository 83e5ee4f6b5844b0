"""What samples are compared with: true clips of the same kind, at every stage's format."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from imagen_video.data.clips import Crop, Example, Source
from imagen_video.data.library import BadSamples
from imagen_video.data.sources import open_source
from imagen_video.data.stickers import Scene, StickerWorld, render, scene_for
from imagen_video.data.stickers.evaluation import FIELDS
from imagen_video.evaluation.prompts import STICKERS, Prompt
from imagen_video.video import VideoFormat

LAYOUT = 10_000
"""Seeds of true scenes begin here: no generated video is compared with its own."""


@runtime_checkable
class Reference(Protocol):
    """Endless true clips: the same index is the same clip at every format."""

    @property
    def name(self) -> str: ...

    def clip(self, index: int, format: VideoFormat, frames: int) -> Example:
        """The first `frames` frames of clip `index`."""
        ...


@dataclass(frozen=True)
class StickerReference:
    """True clips of what the prompts ask for, in turn, laid out anew each time; of prompts that
    name nothing the world knows, whatever the test split holds."""

    prompts: Sequence[Prompt]
    name: str = STICKERS

    def clip(self, index: int, format: VideoFormat, frames: int) -> Example:
        scene = self._scene(index)
        crop = Crop(0, 0, 0, frames, format.height, format.width)
        facts = {name: getattr(scene.attributes, name) or "" for name in FIELDS}
        return Example(render(scene, format, crop=crop), scene.caption, facts)

    def _scene(self, index: int) -> Scene:
        facts = self.prompts[index % len(self.prompts)].facts
        if not set(FIELDS) <= set(facts):
            return StickerWorld(3, split="test").clip(index)
        return scene_for(**{name: facts[name] for name in FIELDS}, seed=LAYOUT + index)


@dataclass(frozen=True)
class DataReference:
    """Clips of a user's own data, as training reads them, cropped in the middle."""

    source: Source
    name: str

    @classmethod
    def of(cls, names: Sequence[str], out: Path) -> "DataReference":
        bad = BadSamples(out / "bad_samples.jsonl")
        source = open_source(names, seed=0, bad=bad, cropping="centre")
        if "video" not in source.kinds:
            raise ValueError(f"the reference {' '.join(names)} holds no videos: name some that do")
        return cls(source, " ".join(names))

    def clip(self, index: int, format: VideoFormat, frames: int) -> Example:
        return self.source.clip(index, format, Crop(0, 0, 0, frames, format.height, format.width))
