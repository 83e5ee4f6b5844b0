"""What can be put into a scene: a flat drawing, a drawing inflated into a solid, a word."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from imagen_video.data.stickers import solid, sprites, words
from imagen_video.shapes import Float

SHAPE = 5 / 3
"""Scenes are laid out for frames of this width over height; others keep things whole."""


@runtime_checkable
class Drawing(Protocol):
    """Textures by view, and how large one is in a frame."""

    @property
    def sides(self) -> tuple[int, ...]:
        """The heights at which its textures exist, ascending."""
        ...

    def extent(self, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Height and width of the texture in frame heights, from a track's size."""
        ...

    def views(self, view: np.ndarray) -> np.ndarray:
        """The number of the texture that a track's view means."""
        ...

    def texture(self, view: int, side: int) -> Float[Tensor, "4 h w"]:
        """A view as premultiplied RGBA of height `side`."""
        ...


@dataclass(frozen=True)
class Sprite:
    """A drawing that stays flat."""

    concept: str
    style: str
    sides = sprites.SIDES

    def extent(self, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return size * sprites.MARGIN, size * sprites.MARGIN

    def views(self, view: np.ndarray) -> np.ndarray:
        return np.zeros(len(view), int)

    def texture(self, view: int, side: int) -> Float[Tensor, "4 h w"]:
        return sprites.sprite(self.concept, self.style, side)


@dataclass(frozen=True)
class Solid:
    """A drawing with depth, seen from all round."""

    concept: str
    style: str
    sides = solid.SIDES

    def extent(self, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return size * sprites.MARGIN, size * sprites.MARGIN

    def views(self, view: np.ndarray) -> np.ndarray:
        return np.rint(view / solid.SPACING).astype(int) % round(360 / solid.SPACING)

    def texture(self, view: int, side: int) -> Float[Tensor, "4 h w"]:
        return solid.solid_view(self.concept, self.style, view, side)


@dataclass(frozen=True)
class Word:
    """A word of capitals; a track's size is its share of the frame's width."""

    text: str
    lettering: str
    ink: str
    sides = words.SIDES

    def extent(self, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        wide = size * SHAPE
        return wide / words.aspect(self.text, self.lettering), wide

    def views(self, view: np.ndarray) -> np.ndarray:
        return np.floor(view).astype(int)

    def texture(self, view: int, side: int) -> Float[Tensor, "4 h w"]:
        return words.word_view(self.text, self.lettering, self.ink, view, side)
