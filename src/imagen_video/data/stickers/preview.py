"""See the training data: a labelled contact sheet and a film of many clips."""

from dataclasses import replace
from itertools import count
from pathlib import Path

import torch
from einops import rearrange

from imagen_video.data.stickers.render import render
from imagen_video.data.stickers.scene import CLIP_SHARES, Scene, StickerWorld
from imagen_video.files import replacing
from imagen_video.shapes import UInt8
from imagen_video.video import Frames, VideoFormat, VideoWriter

STILLS = VideoFormat(8, 48, 80, 1.5)
FILM = VideoFormat(64, 96, 160, 12.0)
COLUMNS, ROWS = 4, 4
PER_FAMILY = {"flat": 8, "textured": 3, "solid": 3, "text": 3, "pair": 3}
LABEL = 14


def preview(out_png: str | Path, out_mp4: str | Path, *, seed: int = 0) -> None:
    """Write a PNG, a captioned row of frames for each clip, and an mp4 of 4 x 4 clips playing.

    Needs pillow and av.
    """
    world = StickerWorld(seed)
    one = replace(STILLS, frames=1)
    rows = [(scene.caption, render(scene, STILLS)) for scene in of_all_families(world)]
    for start in (0, STILLS.frames):
        stills = [world.image(start + place) for place in range(STILLS.frames)]
        names = "; ".join(still.attributes.style for still in stills)
        rows.append((f"images: {names}", torch.cat([render(still, one) for still in stills])))
    write_sheet(Path(out_png), rows)
    clips = [render(world.clip(place), FILM) for place in range(ROWS * COLUMNS)]
    film = rearrange(clips, "(r q) f c h w -> f c (r h) (q w)", r=ROWS)
    captions = [world.clip(place).caption for place in range(ROWS * COLUMNS)]
    size = {"height": film.shape[-2], "width": film.shape[-1]}
    with VideoWriter(out_mp4, **size, fps=FILM.fps, metadata={"captions": captions}) as writer:
        writer.write(film)


def of_all_families(world: StickerWorld) -> list[Scene]:
    """The world's first clips of every family."""
    chosen: dict[str, list[Scene]] = {family: [] for family in CLIP_SHARES}
    for place in count():
        scene = world.clip(place)
        some = chosen[scene.attributes.family]
        if len(some) < PER_FAMILY[scene.attributes.family]:
            some.append(scene)
        if all(len(chosen[family]) == wanted for family, wanted in PER_FAMILY.items()):
            break
    return [scene for scenes in chosen.values() for scene in scenes]


def write_sheet(path: Path, rows: list[tuple[str, Frames]]) -> None:
    """A PNG with each clip's frames side by side under its caption."""
    from PIL import Image, ImageDraw

    strips = [labelled(frames) for _, frames in rows]
    sheet = Image.fromarray(torch.cat(strips).numpy())
    draw = ImageDraw.Draw(sheet)
    top = 0
    for (caption, _), strip in zip(rows, strips, strict=True):
        draw.text((3, top + 1), caption, fill=(235, 235, 235))
        top += len(strip)
    with replacing(path) as part:
        sheet.save(part, format="PNG")


def labelled(frames: Frames) -> UInt8[torch.Tensor, "high wide 3"]:
    """Frames with gaps between them and room above for a caption."""
    padded = torch.nn.functional.pad(frames, (0, 2, LABEL, 2), value=30)
    return rearrange(padded, "f c h w -> h (f w) c").contiguous()
