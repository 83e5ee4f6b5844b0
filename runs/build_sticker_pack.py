"""Build the vendored sticker pack from the npm tarballs of the icon sets and fonts.

    npm pack @iconify-json/fluent-emoji@1.2.7 @iconify-json/fluent-emoji-flat@1.2.6 \
        @iconify-json/fluent-emoji-high-contrast@1.2.6 @iconify-json/noto@1.2.9 \
        @iconify-json/noto-v1@1.2.5 @expo-google-fonts/bangers@0.4.1 \
        @expo-google-fonts/caveat@0.4.2 @expo-google-fonts/lobster@0.4.1 \
        @expo-google-fonts/press-start-2p@0.4.1
    python runs/build_sticker_pack.py FOLDER_WITH_TARBALLS

Writes sprites.json.gz (concept -> style -> SVG text, cut to what the drawing covers), clashes.json
(on which backgrounds a drawing would vanish) and the fonts with their licences into the package's
data/stickers/pack folder. Needs resvg-py, pillow and fonttools.
"""

import gzip
import io
import json
import re
import sys
import tarfile
from pathlib import Path

import numpy as np
import resvg_py
from fontTools.pens.recordingPen import RecordingPen
from fontTools.pens.svgPathPen import SVGPathPen
from fontTools.svgLib.path import parse_path
from PIL import Image

from imagen_video.data.stickers.concepts import COLOURS, CONCEPTS, STYLES

PACK = Path(__file__).parents[1] / "src/imagen_video/data/stickers/pack"
INK = "#1c1c1c"
LINE_ART = "black and white line art"

# Where a set lacks an icon, the same set's nearest drawing of the same thing.
STAND_INS = {("teddy-bear", "noto-v1"): "bear"}

FONTS = {
    "bangers": "Bangers_400Regular.ttf",
    "caveat": "Caveat_700Bold.ttf",
    "lobster": "Lobster_400Regular.ttf",
    "press-start-2p": "PressStart2P_400Regular.ttf",
}


def main(tarballs: Path) -> None:
    """Write the pack."""
    sets = {style: icon_set(tarballs, name) for style, name in STYLES.items()}
    sprites = {
        concept.name: {style: sprite(sets[style], concept.icon, style) for style in STYLES}
        for concept in CONCEPTS.values()
    }
    text = json.dumps(sprites, separators=(",", ":")).encode()
    PACK.mkdir(exist_ok=True)
    (PACK / "sprites.json.gz").write_bytes(gzip.compress(text, 9, mtime=0))
    clashes = {
        name: {style: clashing(drawing) for style, drawing in drawings.items()}
        for name, drawings in sprites.items()
    }
    (PACK / "clashes.json").write_text(json.dumps(clashes, indent=0) + "\n")
    for font, file in FONTS.items():
        copy_font(tarballs, font, file)
    print(f"{len(sprites)} concepts, {len(text) / 1e6:.1f} MB of SVG")


def icon_set(tarballs: Path, name: str) -> dict:
    """The icons.json of one set (the version number follows the name)."""
    (path,) = tarballs.glob(f"iconify-json-{name}-[0-9]*.tgz")
    with tarfile.open(path) as tar:
        return json.load(tar.extractfile("package/icons.json"))


def copy_font(tarballs: Path, font: str, file: str) -> None:
    """Take one TTF and its OFL text."""
    (path,) = tarballs.glob(f"expo-google-fonts-{font}-[0-9]*.tgz")
    folder = "package/" + re.search(r"_(.*)\.ttf", file).group(1)
    with tarfile.open(path) as tar:
        (PACK / f"{font}.ttf").write_bytes(tar.extractfile(f"{folder}/{file}").read())
        (PACK / f"OFL-{font}.txt").write_bytes(tar.extractfile("package/LICENSE_FONT").read())


def sprite(icons: dict, icon: str, style: str) -> str:
    """One icon as SVG text whose square viewBox fits the drawing snugly."""
    icon = STAND_INS.get((icon, icons["prefix"]), icon)
    while icon in icons.get("aliases", {}):
        icon = icons["aliases"][icon]["parent"]
    entry = icons["icons"][icon]
    width = entry.get("width", icons["width"])
    height = entry.get("height", icons["height"])
    box = (entry.get("left", 0), entry.get("top", 0), width, height)
    body = entry["body"]
    if style == LINE_ART:
        body = f'<g fill="#fff">{underlay(body)}</g>{body}'
    return svg(body, snug(body, box))


def svg(body: str, box: tuple[float, float, float, float]) -> str:
    """A complete SVG document of an icon's body, seen through a viewBox (left, top, wide, high)."""
    view = " ".join(f"{number:g}" for number in box)
    space = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {space} viewBox="{view}" color="{INK}">{body}</svg>'


def raster(document: str, side: int) -> Image.Image:
    """An SVG document as an RGBA image."""
    return Image.open(
        io.BytesIO(resvg_py.svg_to_bytes(svg_string=document, width=side, height=side))
    )


def clashing(document: str) -> list[str]:
    """The background colours on which less than a third of the drawing would stand out."""
    pixels = np.asarray(raster(document, 64).convert("RGBA"), np.float32).reshape(-1, 4)
    opaque = pixels[pixels[:, 3] > 128, :3]
    distance = {name: np.linalg.norm(opaque - rgb, axis=1) for name, rgb in COLOURS.items()}
    return [name for name in COLOURS if (distance[name] > 80).mean() < 1 / 3]


def snug(body: str, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """The square around the drawing with a 4 % margin, found on a raster of the whole icon."""
    side = 512
    left, top, wide, _ = box
    x0, y0, x1, y1 = raster(svg(body, box), side).getchannel("A").getbbox()
    scale = wide / side
    square = max(x1 - x0, y1 - y0) * scale * 1.08
    middle_x, middle_y = left + (x0 + x1) / 2 * scale, top + (y0 + y1) / 2 * scale
    numbers = (middle_x - square / 2, middle_y - square / 2, square, square)
    return tuple(round(number, 2) for number in numbers)


def underlay(body: str) -> str:
    """Every outline of the drawing filled, so that line art is white paper and not a window."""
    body = re.sub(r"<(defs|mask|clipPath).*?</\1>", "", body, flags=re.DOTALL)
    filled = []
    for path in re.findall(r'<path[^>]*?\sd="([^"]*)"', body):
        pen = RecordingPen()
        parse_path(path, pen)
        filled += [f'<path d="{outline}"/>' for outline in outlines(pen.value)]
    return "".join(filled)


def outlines(commands: list) -> list[str]:
    """Split recorded pen commands into one absolute SVG path per outline."""
    paths = []
    pen = SVGPathPen(None, ntos=lambda number: f"{number:.2f}")
    for name, points in commands:
        getattr(pen, name)(*points)
        if name in ("closePath", "endPath"):
            paths.append(pen.getCommands())
            pen = SVGPathPen(None, ntos=lambda number: f"{number:.2f}")
    return paths


if __name__ == "__main__":
    main(Path(sys.argv[1]))
