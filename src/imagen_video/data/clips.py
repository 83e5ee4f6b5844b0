"""One captioned clip or image, whatever it comes from."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from imagen_video.data.stickers.window import Crop
from imagen_video.video import Frames, VideoFormat


@dataclass(frozen=True)
class Example:
    """Frames and what they show: one caption."""

    video: Frames
    caption: str


@runtime_checkable
class Source(Protocol):
    """Endless examples: the same index is the same clip at every size, so position is state."""

    def clip(self, index: int, format: VideoFormat, crop: Crop) -> Example:
        """A moving clip, cropped."""
        ...

    def image(self, index: int, format: VideoFormat, crop: Crop) -> Example:
        """A still of one frame, cropped; the crop's frame and frames are ignored."""
        ...
