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

FLATNESS = 0.55
"""Depth over width of what a disc is inflated to."""

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
    return TEXTURES.get(_drawn, concept, style, step, side).float().div_(255)


def _drawn(concept: str, style: str, step: int, side: int) -> Tensor:
    return turned(concept, style, np.deg2rad(step * SPACING), side).mul_(255).round_().byte()


@functools.lru_cache(maxsize=1024)
def bulge(concept: str, style: str, side: int) -> Float[Tensor, "side side"]:
    """The square of the solid's half depth over a drawing, "x y"; a disc becomes an ellipsoid."""
    inside = (sprite(concept, style, side)[3].T > 0.5).float()
    return 4 * FLATNESS**2 * membrane(inside)


def membrane(inside: Float[Tensor, "x y"]) -> Float[Tensor, "x y"]:
    """What a membrane over the outline does under even pressure, on the unit square.

    Solves laplacian(u) = -1 inside with u = 0 outside, from coarse to fine.
    """
    size = len(inside)
    if size <= 24:
        rise, rounds = torch.zeros_like(inside), 300
    else:
        half = membrane((F.avg_pool2d(inside[None], 2)[0] > 0.5).float())
        rise = F.interpolate(half[None, None], scale_factor=2, mode="bilinear")[0, 0]
        rounds = 60
    for _ in range(rounds):
        near = F.pad(rise, (1, 1, 1, 1))
        around = near[2:, 1:-1] + near[:-2, 1:-1] + near[1:-1, 2:] + near[1:-1, :-2]
        rise = inside * (around + 1 / size**2) / 4
    return rise


@functools.lru_cache(maxsize=64)
def paint(concept: str, style: str, side: int) -> Float[Tensor, "3 side side"]:
    """The drawing's colours without alpha, spread beyond its outline, where a solid has flanks."""
    texels = sprite(concept, style, side)
    colour, alpha = texels[:3], texels[3:]
    for reach in (3, 7, 15):
        near = F.avg_pool2d(texels[None], reach, 1, reach // 2)[0]
        spread = near[:3] / near[3:].clamp(min=1e-3)
        colour = torch.where(alpha > 0.9, colour / alpha.clamp(min=1e-3), spread)
        alpha = torch.where(near[3:] > 0.02, 1.0, alpha)
        texels = torch.cat([colour * alpha, alpha])
    return colour.clamp(0, 1)


def turned(concept: str, style: str, angle: float, side: int) -> Float[Tensor, "4 side side"]:
    """One view. A small one is drawn at twice its size and halved; for a large one the geometry,
    which is at most `GEOMETRY` fine, is enlarged to its size."""
    fine = min(2 * side, GEOMETRY)
    drawn = max(side, fine)
    where, shade, hit = cast(bulge(concept, style, fine), angle)
    seen = torch.stack([where, shade, hit.float()]).transpose(1, 2)[None]  # "x y" to rows "y x"
    if side >= GEOMETRY:
        seen = enlarged(seen, side)
    where, shade, hit = seen[0]
    place = ((where + 0.5) * drawn - 0.5).clamp(0, drawn - 1.001)
    lower = place.long()[None].expand(3, -1, -1)
    colours = paint(concept, style, drawn)
    colour = torch.lerp(colours.gather(2, lower), colours.gather(2, lower + 1), place - lower)
    image = torch.cat([(colour * shade).clamp(0, 1), torch.ones_like(colour[:1])]) * hit
    return image if drawn == side else F.avg_pool2d(image[None], 2)[0]


def enlarged(seen: Float[Tensor, "1 3 h w"], size: int) -> Float[Tensor, "1 3 size size"]:
    """A view's geometry (where, shade, hit) on a finer grid, its outline without stairs."""
    hit = seen[:, 2:]
    near = F.avg_pool2d(seen * hit, 3, 1, 1)
    spread = near[:, :2] / near[:, 2:].clamp(min=1e-3)  # values beside the outline, for its blend
    seen = torch.cat([torch.where(hit > 0, seen[:, :2], spread), hit], 1)
    seen = F.interpolate(seen, size=(size, size), mode="bilinear")
    # A blurred mask cut at one half has a smooth outline, where the mask itself has steps.
    steps = size // hit.shape[-1]
    soft = F.avg_pool2d(seen[:, 2:], 2 * steps + 1, 1, steps)
    return torch.cat([seen[:, :2], ((soft - 0.5) * 2 * steps + 0.5).clamp(0, 1)], 1)


def cast(
    squares: Float[Tensor, "x y"], angle: float
) -> tuple[Float[Tensor, "x y"], Float[Tensor, "x y"], Bool[Tensor, "x y"]]:
    """Parallel rays through the turned solid z^2 < squares: where along x each first hits the
    drawing, how bright it is there, and whether it hits at all.

    The axis is vertical, so rows do not mix, and all rows share the sample positions along x.
    """
    inside = (squares > 0).float()
    # Below zero beside the solid, so that rays find its rim between two samples.
    field = squares.sqrt() - 0.06 * (1 - inside) * (1 - F.avg_pool2d(inside[None], 9, 1, 4)[0])
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
    return where, brightness(squares, where, across.T * sin + at * cos, angle), hit


def sampled(field: Float[Tensor, "x y"], x: Float[Tensor, "k n"]) -> Float[Tensor, "k n y"]:
    """The height field at these positions along x, below zero beyond its ends."""
    size = len(field)
    walled = F.pad(field, (0, 0, 1, 1), value=-0.06)
    place = ((x + 0.5) * size + 0.5).clamp(0, size + 0.999)
    lower = place.long()
    return torch.lerp(walled[lower], walled[lower + 1], (place - lower)[..., None])


def brightness(squares: Tensor, where: Tensor, z: Tensor, angle: float) -> Float[Tensor, "x y"]:
    """Diffuse light on the turned surface z^2 = squares; 1 where it faces the viewer."""
    size = len(squares)
    inside = (squares > 0).float()
    slopes = torch.stack([*torch.gradient(squares, spacing=1 / size), torch.ones_like(squares)])
    near = F.avg_pool2d((slopes * inside)[None], 5, 1, 2)[0]
    # Rays that end on the very outline fall beside it, where the slope of what is near goes on.
    slopes = torch.where(inside > 0, slopes[:2], near[:2] / near[2:].clamp(min=1e-3))
    column = ((where + 0.5) * size).long().clamp(0, size - 1)
    (out_x, out_y), out_z = -slopes.gather(1, column.expand(2, -1, -1)), 2 * z
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    facing_x, facing_z = out_x * cos + out_z * sin, out_z * cos - out_x * sin
    length = (out_x**2 + out_y**2 + out_z**2).sqrt().clamp(min=1e-6)
    light = (facing_x * LIGHT[0] + out_y * LIGHT[1] + facing_z * LIGHT[2]) / length
    return (0.45 + 0.55 * light / LIGHT[2]).clamp(0.35, 1.12)
