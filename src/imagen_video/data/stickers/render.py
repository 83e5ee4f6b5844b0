"""Scenes to pixels: the same clip at any size, frame rate and crop, antialiased."""

from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from imagen_video.data.clips import Crop
from imagen_video.data.stickers.backgrounds import colours, share
from imagen_video.data.stickers.drawings import SHAPE, Drawing
from imagen_video.data.stickers.motions import Pose
from imagen_video.data.stickers.scene import Scene
from imagen_video.data.stickers.window import Windows
from imagen_video.shapes import Float, UInt8
from imagen_video.video import VideoFormat

CHUNK_PIXELS = 2**21
"""Frames are rendered in chunks of about this many pixels, which bounds the memory."""


def render(
    scene: Scene, format: VideoFormat, *, crop: Crop | None = None
) -> UInt8[Tensor, "f c h w"]:
    """The scene's frames in this format as 8-bit RGB, or a box of them at the cost of the box.

    Frame i shows time i / fps, so equal times give equal frames whatever the frame rate.
    ValueError when the crop leaves the format.
    """
    crop = crop or Crop(0, 0, 0, format.frames, format.height, format.width)
    crop.check(format)
    film = Film(format, crop)
    chunk = max(1, CHUNK_PIXELS // (crop.height * crop.width))
    parts = []
    for first in range(crop.frame, crop.frame + crop.frames, chunk):
        last = min(first + chunk, crop.frame + crop.frames)
        parts.append(film.expose(scene, np.arange(first, last) / format.fps))
    return torch.cat(parts) if len(parts) > 1 else parts[0]


class Film:
    """The pixels of a crop, to be exposed to scenes at given times."""

    def __init__(self, format: VideoFormat, crop: Crop):
        self.height, self.width, self.crop = format.height, format.width, crop
        self.unit = min(format.height, format.width / SHAPE)  # pixels of a scene's unit of length
        # Points a pixel side: small frames need more, since a small object has sharper edges.
        self.samples = 4 if self.unit <= 32 else 2 if self.unit <= 128 else 1

    def expose(self, scene: Scene, seconds: np.ndarray) -> UInt8[Tensor, "f c h w"]:
        """The frames at these times."""
        camera = scene.camera.at(seconds)
        canvas = self.ground(scene, camera)
        for actor in scene.actors:
            self.paint(canvas, actor.drawing, self.filmed(actor.track.at(seconds), camera))
        return canvas.add_(0.5).to(torch.uint8)

    def ground(self, scene: Scene, camera: Pose) -> Float[Tensor, "f 3 h w"]:
        """The background alone, in [0, 255]."""
        crop, frames = self.crop, len(camera.x)
        first, second = colours(scene.background)[:, :, None, None]
        if scene.background.kind == "flat":
            return first.expand(frames, 3, crop.height, crop.width).contiguous()
        if scene.camera.still:
            camera = camera.only(slice(1))
        corners = np.zeros(len(camera.x), np.int64)
        whole = Windows(corners + crop.top, corners + crop.left, crop.height, crop.width)
        y, x = whole.grid(self.samples)
        pixel = per_frame(1 / (self.unit * camera.size))
        mixed = share(
            scene.background,
            (x - self.width / 2) * pixel + per_frame(camera.x * SHAPE),
            (y - self.height / 2) * pixel + per_frame(camera.y),
            pixel / self.samples,
        )
        ground = torch.lerp(first, second, F.avg_pool2d(mixed[:, None], self.samples))
        return ground.expand(frames, -1, -1, -1).contiguous()

    def filmed(self, pose: Pose, camera: Pose) -> Pose:
        """A pose in the world as the camera sees it, its x, y and size in pixels."""
        x = pose.x * self.width - camera.x * SHAPE * self.unit
        y = pose.y * self.height - camera.y * self.unit
        return Pose(
            x * camera.size + self.width / 2,
            y * camera.size + self.height / 2,
            pose.size * camera.size * self.unit,
            pose.angle,
            pose.view,
        )

    def paint(self, canvas: Tensor, drawing: Drawing, pose: Pose) -> None:
        """Lay a drawing over the canvas, frames that take the same texture size together."""
        crop, extent = self.crop, Extent.of(drawing, pose)
        inside = (
            np.abs(pose.x - crop.left - crop.width / 2) < (extent.across + crop.width) / 2
        ) & (np.abs(pose.y - crop.top - crop.height / 2) < (extent.down + crop.height) / 2)
        # Texels about as fine as the samples: finer ones would flicker, coarser ones blur.
        level = np.searchsorted(drawing.sides, 0.75 * self.samples * extent.high)
        level = level.clip(max=len(drawing.sides) - 1)
        for side in np.unique(level[inside]):
            frames = np.flatnonzero(inside & (level == side))
            here, room = pose.only(frames), extent.only(frames)
            size = (room.down.max(), room.across.max())
            windows = Windows.around(here.y, here.x, size, crop)
            patch = self.patch(drawing, here, room, windows, drawing.sides[side])
            windows.blend(canvas, patch, frames, crop)

    def patch(
        self, drawing: Drawing, pose: Pose, extent: "Extent", windows: Windows, side: int
    ) -> Float[Tensor, "f 4 h w"]:
        """What the windows see of a drawing, as premultiplied RGBA."""
        angle = np.deg2rad(pose.angle)
        cos, sin = per_frame(np.cos(angle)), per_frame(np.sin(angle))
        y, x = windows.grid(self.samples)
        x, y = x - per_frame(pose.x), y - per_frame(pose.y)
        across = (x * cos + y * sin) * per_frame(2 / extent.wide)
        down = (y * cos - x * sin) * per_frame(2 / extent.high)
        where = torch.stack([across, down], dim=-1)
        views, which = np.unique(drawing.views(pose.view), return_inverse=True)
        textures = torch.stack([drawing.texture(int(view), side) for view in views])
        if len(views) == 1:  # one tall image is cheaper than a texture a frame
            tall = F.grid_sample(textures, where.flatten(0, 1)[None], align_corners=False)
            seen = tall[0].unflatten(1, (len(where), -1)).transpose(0, 1)
        else:
            seen = F.grid_sample(textures[torch.from_numpy(which)], where, align_corners=False)
        return F.avg_pool2d(seen, self.samples) if self.samples > 1 else seen


@dataclass(frozen=True)
class Extent:
    """The size of a drawing's texture in pixels, and of the upright box around it once turned."""

    high: np.ndarray
    wide: np.ndarray
    down: np.ndarray
    across: np.ndarray

    @staticmethod
    def of(drawing: Drawing, pose: Pose) -> "Extent":
        """The extent over the frames of a filmed pose."""
        high, wide = drawing.extent(pose.size)
        angle = np.deg2rad(pose.angle)
        cos, sin = np.abs(np.cos(angle)), np.abs(np.sin(angle))
        return Extent(high, wide, wide * sin + high * cos, wide * cos + high * sin)

    def only(self, frames: np.ndarray) -> "Extent":
        """The same for some of the frames."""
        return Extent(*(getattr(self, field.name)[frames] for field in fields(self)))


def per_frame(values: np.ndarray) -> Float[Tensor, "f 1 1"]:
    """One number a frame, to be combined with its pixels."""
    return torch.from_numpy(values).float()[:, None, None]
