"""Grounds that are pure functions of the place: flat colours, antialiased two-colour textures."""

from dataclasses import dataclass

import torch
from torch import Tensor

from imagen_video.data.stickers.concepts import COLOURS
from imagen_video.shapes import Float

TEXTURE_KINDS = (
    "striped",
    "horizontally striped",
    "diagonally striped",
    "checkered",
    "polka dot",
    "wavy",
    "ringed",
    "gradient",
)


@dataclass(frozen=True)
class Background:
    """A flat colour, or a texture of two; `scale` is its period in frame heights."""

    kind: str
    first: str
    second: str | None = None
    scale: float = 0.5
    phase: float = 0.0

    @property
    def name(self) -> str:
        """As captions call it: "red", "red and white striped", "red to blue gradient"."""
        if self.kind == "flat":
            return self.first
        if self.kind == "gradient":
            return f"{self.first} to {self.second} gradient"
        return f"{self.first} and {self.second} {self.kind}"

    @staticmethod
    def named(name: str, *, scale: float = 0.5, phase: float = 0.0) -> "Background":
        """The background of this name."""
        if name in COLOURS:
            return Background("flat", name)
        first, joint, rest = [*name.split(" ", 2), "", ""][:3]
        second, _, kind = rest.partition(" ")
        if not (joint in ("and", "to") and {first, second} <= set(COLOURS)):
            raise ValueError(f"background {name!r} unknown; use one of {', '.join(COLOURS)}")
        if kind not in TEXTURE_KINDS:
            raise ValueError(f"texture {kind!r} unknown; use one of {', '.join(TEXTURE_KINDS)}")
        return Background(kind, first, second, scale, phase)


def colours(ground: Background) -> Float[Tensor, "2 3"]:
    """Its two colours in [0, 255] (twice the same for a flat one)."""
    return torch.tensor([COLOURS[ground.first], COLOURS[ground.second or ground.first]]).float()


def share(ground: Background, x: Tensor, y: Tensor, pixel: Tensor) -> Tensor:
    """How much of the second colour is at (x, y), in frame heights from the middle of the world.

    `pixel` is the width of a pixel there, over which edges are spread. All three broadcast.
    """
    period, phase = ground.scale, ground.phase * ground.scale
    if ground.kind == "striped":
        return bars(x + phase, period, pixel).expand_as(x + y)
    if ground.kind == "horizontally striped":
        return bars(y + phase, period, pixel).expand_as(x + y)
    if ground.kind == "diagonally striped":
        return bars((x + y) * 0.5**0.5 + phase, period, pixel)
    if ground.kind == "wavy":
        wave = 0.12 * period * torch.sin(2 * torch.pi / (1.6 * period) * x)
        return bars(y + wave + phase, period, pixel)
    if ground.kind == "ringed":
        return bars((x * x + y * y).sqrt() + phase, period, pixel)
    if ground.kind == "checkered":
        across = 2 * bars(x + phase, 1.2 * period, pixel) - 1
        down = 2 * bars(y + phase, 1.2 * period, pixel) - 1
        return (1 - across * down) / 2
    if ground.kind == "polka dot":
        return dots(x + phase, y + phase, period, pixel)
    assert ground.kind == "gradient", ground.kind
    return (0.5 + 0.5 * torch.sin(1.6 * y + 0.9 * (2 * ground.phase - 1) * x)).expand_as(x + y)


def bars(at: Tensor, period: float, pixel: Tensor) -> Tensor:
    """A square wave of 0 and 1, its edges spread over a pixel."""
    inward = ((at / period) % 1 - 0.5).abs() * period - period / 4
    return (inward / pixel + 0.5).clamp(0, 1)


def dots(x: Tensor, y: Tensor, period: float, pixel: Tensor) -> Tensor:
    """Round dots in staggered rows."""
    row = torch.floor(y / (0.866 * period))
    down = y - (row + 0.5) * 0.866 * period
    across = ((x / period + 0.5 * (row % 2)) % 1 - 0.5) * period
    inward = 0.3 * period - (across * across + down * down).sqrt()
    return (inward / pixel + 0.5).clamp(0, 1)
