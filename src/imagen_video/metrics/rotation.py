"""Which way a solid turns, by its rendered views: nothing is learned."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from imagen_video.metrics.judge import ground_colour
from imagen_video.shapes import Float
from imagen_video.video import Frames

SIDE = 24
"""Pixels of the square that the object is cut out to."""
TURNS = range(280, 721, 20)
"""Degrees that the clip may turn by."""
AWAY = 40.0
"""A pixel this far from the ground's colour (of 255, over the three channels) is the object."""


def turning(clip: Frames, views: Float[Tensor, "v 4 s s"]) -> int:
    """1 where a clip runs through these views (evenly spaced over 360 degrees, premultiplied RGBA)
    in their order, -1 against it: whichever steady turn, from any view, fits the frames best; 0
    where a view that stays fits them as well."""
    ground = ground_colour(clip) / 255
    seen = _cut(clip.float() / 255, _object(clip, ground))
    alpha = views[:, 3:]
    drawn = _cut(views[:, :3] + (1 - alpha) * ground.view(3, 1, 1), alpha[:, 0] > 0.5)
    errors = torch.cdist(seen.flatten(1)[None], drawn.flatten(1)[None])[0].square()
    fits = {0: errors.sum(0).min().item()} | {way: _least(errors, way) for way in (1, -1)}
    return min(fits, key=lambda way: fits[way])


def _least(errors: Float[Tensor, "f v"], way: int) -> float:
    """The smallest sum of errors along any steady turn that way."""
    frames, views = errors.shape
    rows, starts = torch.arange(frames), torch.arange(views)[:, None]
    sums = []
    for turn in TURNS:
        along = way * turn / 360 * views * rows / (frames - 1)
        place = (starts + along.round().long()) % views
        sums.append(errors[rows, place].sum(1).min())
    return torch.stack(sums).min().item()


def _object(clip: Frames, ground: Float[Tensor, " 3"]) -> Tensor:
    apart = clip.float() - 255 * ground.view(3, 1, 1)
    # Averaged with its neighbours: a speck of noise at the border would widen the box.
    return F.avg_pool2d(apart, 3, 1, 1, count_include_pad=False).norm(dim=1) > AWAY


def _cut(frames: Float[Tensor, "n c h w"], mask: Tensor) -> Float[Tensor, "n c side side"]:
    """The box that holds the object in any frame, as a square: of a whole turn it is the same box
    for the clip and for the views."""
    rows, columns = _span(mask.any(0).any(1)), _span(mask.any(0).any(0))
    box = frames[..., slice(*rows), slice(*columns)]
    return F.interpolate(box, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)


def _span(there: Tensor) -> Sequence[int]:
    """From the first to the last; everything where there is nothing."""
    found = there.nonzero().flatten().tolist()
    return (found[0], found[-1] + 1) if found else (0, len(there))
