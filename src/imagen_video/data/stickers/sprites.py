"""Textures of the vendored drawings: SVG to premultiplied RGBA in halving sizes, cached on disk."""

import functools
import gzip
import hashlib
import io
import json
import shutil
from collections import OrderedDict
from collections.abc import Callable, Iterable
from importlib.resources import files
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from imagen_video.data.stickers.concepts import CORE_CONCEPTS, STYLES
from imagen_video.files import cache_root, replacing
from imagen_video.shapes import Float

SIDES = (24, 48, 96, 192, 384, 768)
"""Heights in texels at which every texture exists; each is the mean of 2 x 2 texels of the next."""

MARGIN = 1.08
"""The pack leaves a margin: the texture's side is this many times the drawing's longer side."""


class TextureCache:
    """The textures used last, up to a number of bytes."""

    def __init__(self, max_bytes: int):
        self.max_bytes, self.bytes = max_bytes, 0
        self.held: OrderedDict[tuple, Tensor] = OrderedDict()

    def get(self, make: Callable[..., Tensor], *what: str | int) -> Tensor:
        """What `make` makes of `what`, made when it is not held."""
        key = (make, *what)
        if key in self.held:
            self.held.move_to_end(key)
            return self.held[key]
        texture = make(*what)
        self.held[key] = texture
        self.bytes += texture.nbytes
        while self.bytes > self.max_bytes and len(self.held) > 1:
            self.bytes -= self.held.popitem(last=False)[1].nbytes
        return texture


TEXTURES = TextureCache(max_bytes=768 * 2**20)
"""One for the process: sprites, 3D views and words share the budget."""


def cache_folder() -> Path:
    """The folder of this pack's textures."""
    return cache_root() / "stickers" / pack_digest()


def pack_file(name: str) -> bytes:
    """A file of the vendored pack."""
    return (files("imagen_video.data.stickers") / "pack" / name).read_bytes()


@functools.cache
def pack_digest() -> str:
    """Names the pack's content, so that a changed pack never meets old textures."""
    return hashlib.sha256(pack_file("sprites.json.gz")).hexdigest()[:12]


@functools.cache
def drawings() -> dict[str, dict[str, str]]:
    """SVG text by concept and style."""
    return json.loads(gzip.decompress(pack_file("sprites.json.gz")))


def sprite(concept: str, style: str, side: int) -> Float[Tensor, "4 side side"]:
    """One drawing as premultiplied RGBA in [0, 1] at one of `SIDES`."""
    return TEXTURES.get(_loaded, concept, style, side)


def _loaded(concept: str, style: str, side: int) -> Tensor:
    with np.load(sprite_file(concept, style)) as sizes:
        texels = torch.from_numpy(sizes[str(side)])
    return texels.permute(2, 0, 1).float().div_(255).contiguous()


def sprite_file(concept: str, style: str) -> Path:
    """The file with all sizes of a drawing, "h w 4" at 8 bits; made when missing."""
    path = cache_folder() / STYLES[style] / f"{concept.replace(' ', '-')}.npz"
    if not path.exists():
        save(path, halvings(rasterise(drawings()[concept][style])))
    return path


def save(path: Path, sizes: dict[str, np.ndarray]) -> None:
    """Write a texture file in one move, so that a reader beside us sees all or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **sizes)  # pyright: ignore[reportArgumentType]


def rasterise(svg: str) -> np.ndarray:
    """SVG text as premultiplied RGBA in [0, 255], float32 "h w c", at the largest side."""
    import resvg_py
    from PIL import Image

    png = resvg_py.svg_to_bytes(svg_string=svg, width=SIDES[-1], height=SIDES[-1])
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"), np.float32).copy()
    pixels[..., :3] *= pixels[..., 3:] / 255
    return pixels


def halvings(texels: np.ndarray) -> dict[str, np.ndarray]:
    """All sizes of a texture "h w c" by repeated 2 x 2 means, as 8-bit, by height."""
    sizes = {str(len(texels)): np.rint(texels).astype(np.uint8)}
    while len(texels) > SIDES[0]:
        high, wide, channels = texels.shape
        texels = texels.reshape(high // 2, 2, wide // 2, 2, channels).mean((1, 3))
        sizes[str(high // 2)] = np.rint(texels).astype(np.uint8)
    return sizes


def prerender(
    folder: str | Path, *, concepts: Iterable[str] = CORE_CONCEPTS, styles: Iterable[str] = STYLES
) -> None:
    """Copy every texture into `folder`, for machines without resvg, pillow or fonts.

    Such a machine sets IMAGEN_VIDEO_CACHE to the folder. Needs the `data` tools (resvg-py, pillow).
    """
    from imagen_video.data.stickers.words import FONTS, letters_file

    rendered = [sprite_file(concept, style) for concept, style in product(concepts, styles)]
    for file in [*rendered, *map(letters_file, FONTS.values())]:
        there = Path(folder) / file.relative_to(cache_root())
        there.parent.mkdir(parents=True, exist_ok=True)
        with replacing(there) as part:
            shutil.copyfile(file, part)
