"""The sticker world: an endless captioned data set that needs no download."""

from imagen_video.data.clips import Crop
from imagen_video.data.stickers.concepts import CORE_CONCEPTS
from imagen_video.data.stickers.render import render
from imagen_video.data.stickers.scene import Attributes, Scene, StickerWorld, scene_for
from imagen_video.data.stickers.sprites import prerender

__all__ = [
    "CORE_CONCEPTS",
    "Attributes",
    "Crop",
    "Scene",
    "StickerWorld",
    "prerender",
    "render",
    "scene_for",
]
