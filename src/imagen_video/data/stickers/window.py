"""Small windows that follow an object through the frames, so that only its surroundings cost."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from imagen_video.data.clips import Crop
from imagen_video.shapes import Float


@dataclass(frozen=True)
class Windows:
    """One box per frame, all of one size, at these corners (in pixels of the whole frame)."""

    top: np.ndarray
    left: np.ndarray
    height: int
    width: int

    @staticmethod
    def around(y: np.ndarray, x: np.ndarray, size: tuple[float, float], crop: Crop) -> "Windows":
        """The smallest windows that hold all pixels of the crop within size / 2 of the centres."""
        height, top = _span(y, size[0], crop.top, crop.height)
        width, left = _span(x, size[1], crop.left, crop.width)
        return Windows(top, left, height, width)

    def grid(self, samples: int) -> tuple[Float[Tensor, "f y 1"], Float[Tensor, "f 1 x"]]:
        """Positions of samples x samples points a pixel, in pixels of the whole frame."""
        y = (torch.arange(self.height * samples) + 0.5) / samples
        x = (torch.arange(self.width * samples) + 0.5) / samples
        top, left = torch.from_numpy(self.top), torch.from_numpy(self.left)
        return (y + top[:, None])[:, :, None].float(), (x + left[:, None])[:, None, :].float()

    def blend(self, canvas: Tensor, patch: Tensor, frames: np.ndarray, crop: Crop) -> None:
        """Lay premultiplied RGBA patches over these frames of a canvas "f 3 h w" in [0, 255]."""
        paint, clear = patch[:, :3] * 255, 1 - patch[:, 3:]
        whole = (self.height, self.width) == (crop.height, crop.width)
        if whole and len(frames) == len(canvas):
            canvas.mul_(clear).add_(paint)
            return
        rows = torch.from_numpy(self.top - crop.top)[:, None] + torch.arange(self.height)
        columns = torch.from_numpy(self.left - crop.left)[:, None] + torch.arange(self.width)
        place = (rows[:, :, None] * crop.width + columns[:, None, :]).flatten(1)
        first = torch.from_numpy(frames)[:, None] * (3 * crop.height * crop.width)
        layers = torch.arange(3) * (crop.height * crop.width)
        index = (first[:, :, None] + layers[:, None] + place[:, None]).flatten()
        flat = canvas.view(-1)
        under = flat[index].view_as(paint)
        flat[index] = (under * clear + paint).flatten()


def _span(centre: np.ndarray, size: float, start: int, length: int) -> tuple[int, np.ndarray]:
    """How long windows of about `size` around the centres are on an axis, and where they begin."""
    span = min(int(np.ceil(size)) + 1, length)
    first = np.floor(centre - size / 2).astype(np.int64)
    return span, first.clip(start, start + length - span)
