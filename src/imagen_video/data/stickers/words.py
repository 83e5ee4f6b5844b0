"""Animated words: the letters of four OFL fonts as textures, and words made of them."""

import functools
import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from imagen_video.data.stickers.sprites import (
    TEXTURES,
    cache_folder,
    halvings,
    pack_file,
    save,
)
from imagen_video.shapes import Float

FONTS = {
    "comic lettering": "bangers",
    "handwritten lettering": "caveat",
    "script lettering": "lobster",
    "pixel lettering": "press-start-2p",
}
"""Lettering, as captions name it, and the font file."""

INKS = {
    "black": (25, 25, 25),
    "white": (250, 250, 250),
    "red": (205, 30, 40),
    "blue": (35, 70, 190),
    "green": (20, 120, 50),
    "yellow": (255, 225, 60),
}
"""Colours of letters, 8-bit RGB."""

SIDES = (24, 48, 96, 192, 384)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def word_view(text: str, font: str, ink: str, shown: int, side: int) -> Float[Tensor, "4 h w"]:
    """The first `shown` letters of a word, in a box as wide as the whole word."""
    return TEXTURES.get(_written, text, font, ink, shown, side)


def _written(text: str, font: str, ink: str, shown: int, side: int) -> Tensor:
    cells = letters(font, side)
    marks = [
        cells[letter] if place < shown else torch.zeros_like(cells[letter])
        for place, letter in enumerate(text)
    ]
    mask = torch.cat(marks, dim=-1)
    colour = torch.tensor([*INKS[ink], 255]).float().div_(255)
    return colour[:, None, None] * mask


def aspect(text: str, font: str) -> float:
    """Width of a word over its height."""
    cells = letters(font, SIDES[0])
    return sum(cells[letter].shape[-1] for letter in text) / SIDES[0]


@functools.lru_cache(maxsize=32)
def letters(font: str, side: int) -> dict[str, Float[Tensor, "1 h w"]]:
    """Every letter's coverage in [0, 1], in cells of height `side` as wide as the letter."""
    with np.load(letters_file(FONTS[font])) as file:
        strip, widths = torch.from_numpy(file[str(side)]), file["widths"]
    cells = (strip[..., 0].float() / 255)[None].split((widths * side // SIDES[-1]).tolist(), dim=-1)
    return dict(zip(LETTERS, cells, strict=True))


def letters_file(font: str) -> Path:
    """The file with all sizes of a font's letters; made when missing."""
    path = cache_folder() / "fonts" / f"{font}.npz"
    if not path.exists():
        strip, widths = draw_letters(font)
        save(path, {**halvings(strip), "widths": widths})
    return path


def draw_letters(font: str) -> tuple[np.ndarray, np.ndarray]:
    """All letters side by side, float32 "h w 1" in [0, 255], and their widths.

    Widths are multiples of the largest halving, so that every size is cut at the same places.
    """
    from PIL import Image, ImageDraw, ImageFont

    high, grain = SIDES[-1], SIDES[-1] // SIDES[0]
    probe = ImageFont.truetype(io.BytesIO(pack_file(f"{font}.ttf")), 256)
    boxes = [probe.getbbox(letter) for letter in LETTERS]
    top, bottom = min(box[1] for box in boxes), max(box[3] for box in boxes)
    size = 256 * high / (1.1 * (bottom - top))
    face = ImageFont.truetype(io.BytesIO(pack_file(f"{font}.ttf")), size)
    cells = []
    for letter in LETTERS:
        left, _, right, _ = face.getbbox(letter)
        wide = int(-(-(right - left + 0.1 * high) // grain) * grain)
        cell = Image.new("L", (wide, high))
        corner = ((wide - right - left) / 2, -top * size / 256 + 0.05 * high)
        ImageDraw.Draw(cell).text(corner, letter, fill=255, font=face)
        cells.append(np.asarray(cell, np.float32))
    widths = np.array([cell.shape[1] for cell in cells])
    return np.concatenate(cells, axis=1)[..., None], widths
