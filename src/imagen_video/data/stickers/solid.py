"""True 3D rotation: a drawing inflated into a solid and seen from all round its vertical axis."""

import functools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from imagen_video.data.stickers.sprites import TEXTURES, sprite
from imagen_video.shapes import Bool, Float

SPACING = 2.5
"""Degrees between two cached views."""

SIDES = (24, 48, 96, 192, 384)
GEOMETRY = 192
"""Height fields are at most this fine; the texture laid over them is as fine as asked."""

THICKNESS = 0.24
"""Half of the greatest depth, as a share of the texture's side."""

DEPTHS = 48
LIGHT = (-0.35, -0.45, 0.82)


def solid_view(concept: str, style: str, step: int, side: int) -> Float[Tensor, "4 side side"]:
    """The solid turned by `step` spacings, its front to the viewer's right, premultiplied RGBA.

    Front and back carry the same drawing (from behind it is mirrored), so the view at 180 - a is
    the mirror image of the view at a.
    """
    quarter = round(90 / SPACING)
    step = int(step) % (4 * quarter)
    if quarter < step < 3 * quarter:
        return view(concept, style, 2 * quarter - step, side).flip(-1)
    return view(concept, style, step - 4 * quarter if step > quarter else step, side)


def view(concept: str, style: str, step: int, side: int) -> Tensor:
    """A cached view; kept at 8 bits, since there are 73 of them a drawing and size."""

    def draw() -> Tensor:
        return turned(concept, style, np.deg2rad(step * SPACING), side).mul_(255).round_().byte()

    return TEXTURES.get(("solid", concept, style, step, side), draw).float().div_(255)


@functools.lru_cache(maxsize=512)
def heights(concept: str, style: str, side: int) -> Float[Tensor, "side side"]:
    """The height field over a drawing, rounded by the distance to its outline, "x y"."""
    inside = sprite(concept, style, side)[3].numpy() > 0.5
    reach = np.maximum(distance_inside(inside) - 1.0, 0) / side  # one texel in: opaque paint only
    bevel = min(0.25, max(float(reach.max()), 1e-3))
    rest = 1 - np.minimum(reach / bevel, 1)
    depth = min(THICKNESS, 1.2 * bevel)
    return torch.from_numpy(depth * np.sqrt(1 - rest**2)).float().T.contiguous()


def distance_inside(inside: np.ndarray) -> np.ndarray:
    """Euclidean distance in texels from each texel to the nearest one outside, "h w"."""
    high, wide = inside.shape
    columns = np.arange(wide)
    wall = np.where(inside, -np.inf, columns)
    left = columns - np.maximum.accumulate(wall, 1)
    wall = np.where(inside, np.inf, columns)
    right = np.minimum.accumulate(wall[:, ::-1], 1)[:, ::-1] - columns
    along = np.minimum(np.minimum(left, right), columns + 1.0)
    along = np.minimum(along, wide - columns)
    rows = np.arange(-1, high + 1)
    squares = np.concatenate([np.zeros((1, wide)), along**2, np.zeros((1, wide))])
    nearest = np.stack([(squares + ((rows - row) ** 2)[:, None]).min(0) for row in range(high)])
    return np.sqrt(nearest)


def turned(concept: str, style: str, angle: float, side: int) -> Float[Tensor, "4 side side"]:
    """One view, drawn at twice its size (geometry at no more than `GEOMETRY`) and halved."""
    fine = min(2 * side, GEOMETRY)
    field = heights(concept, style, 96)
    if fine != 96:
        resized = F.interpolate(field[None, None], size=(fine, fine), mode="bilinear")
        field = resized[0, 0]
    where, shade, hit = cast(field, angle)
    seen = torch.stack([where, shade, hit.float()]).transpose(1, 2)  # "x y" to rows "y x"
    if fine != 2 * side:
        seen = F.interpolate(seen[None], size=(2 * side, 2 * side), mode="bilinear")[0]
    where, shade, hit = seen
    paint = sprite(concept, style, 2 * side)
    column = ((where + 0.5) * 2 * side - 0.5).clamp(0, 2 * side - 1.001)
    lower = column.long()
    mix = column - lower
    colour = torch.lerp(
        paint.gather(2, lower.expand(4, -1, -1)),
        paint.gather(2, (lower + 1).expand(4, -1, -1)),
        mix,
    )
    colour = colour[:3] / colour[3:].clamp(min=0.02) * shade
    image = torch.cat([colour.clamp(0, 1), torch.ones_like(colour[:1])]) * hit
    return F.avg_pool2d(image[None], 2)[0]


def cast(
    field: Float[Tensor, "x y"], angle: float
) -> tuple[Float[Tensor, "x y"], Float[Tensor, "x y"], Bool[Tensor, "x y"]]:
    """Parallel rays through the turned solid |z| < field: where along x each first hits the
    drawing, how bright it is there, and whether it hits at all.

    The axis is vertical, so rows do not mix, and all rows share the sample positions along x.
    """
    size = len(field)
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    across = ((torch.arange(size) + 0.5) / size - 0.5)[None]
    depth = torch.linspace(0.56, -0.56, DEPTHS)[:, None]  # from the viewer backwards
    x, z = across * cos - depth * sin, across * sin + depth * cos
    gap = sampled(field, x) - z.abs()[..., None]
    order = torch.arange(DEPTHS, 0, -1, dtype=torch.float32)[:, None, None]
    best, first = ((gap > 0) * order).max(0)
    hit = best > 0
    before = (first - 1).clamp(min=0)
    now, then = gap.gather(0, first[None])[0], gap.gather(0, before[None])[0]
    back = (now / (now - then).clamp(min=1e-6)).clamp(0, 1) * (first != before)
    step = float(depth[1] - depth[0])
    at = depth[:, 0][first] - back * step
    if abs(cos) > 0.1:  # what is too thin for the samples is still met in its middle plane
        middle = (across / cos).T.expand(-1, size)
        thin = ~hit & (sampled(field, across / cos)[0] > 0) & (middle.abs() < 0.5)
        at = torch.where(thin, -middle * sin, at)
        hit = hit | thin
    where = across.T * cos - at * sin
    return where, brightness(field, where, across.T * sin + at * cos, angle), hit


def sampled(field: Float[Tensor, "x y"], x: Float[Tensor, "k n"]) -> Float[Tensor, "k n y"]:
    """The height field at these positions along x, zero beyond its ends."""
    size = len(field)
    walled = F.pad(field, (0, 0, 1, 1))
    place = ((x + 0.5) * size + 0.5).clamp(0, size + 0.999)
    lower = place.long()
    return torch.lerp(walled[lower], walled[lower + 1], (place - lower)[..., None])


def brightness(field: Tensor, where: Tensor, z: Tensor, angle: float) -> Float[Tensor, "x y"]:
    """Diffuse light on the turned surface; 1 where it faces the viewer."""
    size = len(field)
    slope_x, slope_y = torch.gradient(field, spacing=1 / size)
    column = ((where + 0.5) * size).long().clamp(0, size - 1)
    slope_x, slope_y = slope_x.gather(0, column), slope_y.gather(0, column)
    side = torch.where(z >= 0, 1.0, -1.0)
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    facing_x, facing_z = -slope_x * cos + side * sin, slope_x * sin + side * cos
    length = (slope_x**2 + slope_y**2 + 1).sqrt()
    light = (facing_x * LIGHT[0] - slope_y * LIGHT[1] + facing_z * LIGHT[2]) / length
    return (0.45 + 0.55 * light / LIGHT[2]).clamp(0.35, 1.12)
