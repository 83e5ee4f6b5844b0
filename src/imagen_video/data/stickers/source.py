"""The sticker world as a source of training examples."""

from typing import Literal

from imagen_video.data.clips import Crop, Example, Position
from imagen_video.data.stickers import StickerWorld, render
from imagen_video.video import VideoFormat


class StickerSource:
    """Endless clips and stills; see `imagen_video.data.clips.Source`."""

    kinds = frozenset({"video", "image"})

    def __init__(self, seed: int, *, part: Literal["train", "test"] = "train"):
        self.world = StickerWorld(seed, split=part)

    def clip(self, index: int, format: VideoFormat, crop: Crop) -> Example:
        scene = self.world.clip(index)
        return Example(render(scene, format, crop=crop), scene.caption, scene.attributes.known())

    def image(self, index: int, format: VideoFormat, crop: Crop) -> Example:
        scene = self.world.image(index)
        still = Crop(0, crop.top, crop.left, 1, crop.height, crop.width)
        return Example(render(scene, format, crop=still), scene.caption, scene.attributes.known())

    def position(self, clips: int, stills: int) -> dict[str, Position]:
        return {"stickers": Position(clips, stills)}
