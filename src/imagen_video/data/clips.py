"""One captioned clip or image, whatever it comes from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from imagen_video.video import Frames, VideoFormat


@dataclass(frozen=True)
class Crop:
    """A box in the frames and pixels of a format."""

    frame: int
    top: int
    left: int
    frames: int
    height: int
    width: int

    def check(self, format: VideoFormat) -> None:
        """ValueError unless the box lies within the format."""
        spans = (
            (self.frame, self.frames, format.frames),
            (self.top, self.height, format.height),
            (self.left, self.width, format.width),
        )
        if any(start < 0 or size < 1 or start + size > whole for start, size, whole in spans):
            raise ValueError(f"{self} does not lie within {format}; choose a box inside it")


@dataclass(frozen=True)
class Position:
    """How many clips and stills a source has given, the epochs that they are in (None: the source
    is endless), and what tells its content from any other."""

    clips: int
    stills: int
    clip_epoch: int | None = None
    still_epoch: int | None = None
    content: str = ""


@dataclass(frozen=True)
class Example:
    """Frames and what they show: one caption, and the facts behind it where they are known."""

    video: Frames
    caption: str
    attributes: Mapping[str, str] = field(default_factory=dict)


@runtime_checkable
class Source(Protocol):
    """Endless examples: the same index is the same clip at every size, so position is state."""

    @property
    def kinds(self) -> frozenset[str]:
        """What it holds: "video", "image" or both."""
        ...

    def clip(self, index: int, format: VideoFormat, crop: Crop) -> Example:
        """A moving clip, cropped."""
        ...

    def image(self, index: int, format: VideoFormat, crop: Crop) -> Example:
        """A still of one frame, cropped; the crop's frame and frames are ignored."""
        ...

    def position(self, clips: int, stills: int) -> dict[str, "Position"]:
        """Where every source stands by name, once so many clips and stills were given."""
        ...
