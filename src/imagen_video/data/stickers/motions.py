"""What moves how: one track of position, size, angle and view serves every motion of the world."""

from dataclasses import dataclass, fields, replace

import numpy as np

CLIP_SECONDS = 16 / 3
"""All motions are laid out over this time: 16 frames at 3 a second, 128 at 24."""

MOTIONS = (
    "moving left to right",
    "moving right to left",
    "rising",
    "falling",
    "bouncing",
    "spinning clockwise",
    "spinning counterclockwise",
    "growing",
    "shrinking",
    "standing still",
)
SOLID_MOTIONS = ("rotating left in 3D", "rotating right in 3D")
CAMERA_MOTIONS = (
    "camera panning left",
    "camera panning right",
    "camera zooming in",
    "camera zooming out",
)
WORD_MOTIONS = (
    "appearing letter by letter",
    "sliding in from the left",
    "sliding in from the right",
    "falling from above",
    "zooming in",
)
PAIR_MOTIONS = tuple(motion for motion in MOTIONS if motion != "bouncing")


@dataclass(frozen=True)
class Pose:
    """Where a thing is at some times; every field an array over these times."""

    x: np.ndarray
    y: np.ndarray
    size: np.ndarray
    angle: np.ndarray
    view: np.ndarray

    def only(self, frames: np.ndarray | slice) -> "Pose":
        """The pose at some of the times."""
        return Pose(*(getattr(self, field.name)[frames] for field in fields(self)))


@dataclass(frozen=True)
class Track:
    """Straight lines from a first to a last value while time runs from `begin` to `end` seconds.

    x and y are the centre as a fraction of the frame's width and height, from its middle, y down;
    size a fraction of the frame's height (it grows geometrically); angle is in degrees, clockwise
    as the viewer sees it; view is what the drawing makes of it (the turn of a solid in degrees,
    the number of letters of a word). `hops` arcs of height `hop` are added to y.
    """

    x: tuple[float, float] = (0.0, 0.0)
    y: tuple[float, float] = (0.0, 0.0)
    size: tuple[float, float] = (0.5, 0.5)
    angle: tuple[float, float] = (0.0, 0.0)
    view: tuple[float, float] = (0.0, 0.0)
    hop: float = 0.0
    hops: float = 0.0
    begin: float = 0.0
    end: float = CLIP_SECONDS

    @property
    def still(self) -> bool:
        """Whether nothing about it changes."""
        pairs = (self.x, self.y, self.size, self.angle, self.view)
        return not self.hop and all(first == last for first, last in pairs)

    def at(self, seconds: np.ndarray) -> Pose:
        """The pose at these times (1-D); before and after the track it stands."""
        way = np.clip((seconds - self.begin) / (self.end - self.begin), 0.0, 1.0)
        x, y, angle, view = (
            first + (last - first) * way for first, last in (self.x, self.y, self.angle, self.view)
        )
        if self.hop:
            y = y - self.hop * np.abs(np.sin(np.pi * self.hops * way))
        size = self.size[0] * (self.size[1] / self.size[0]) ** way
        return Pose(x, y, size, angle, view)


def single(motion: str, rng: np.random.Generator) -> Track:
    """One object with the frame to itself, in one of `MOTIONS` or `SOLID_MOTIONS`."""
    size = rng.uniform(0.45, 0.7)
    room_x, room_y = 0.5 - 0.6 * size / 2, (1 - size) / 2  # size is in heights: 0.6 of the width
    x, y = rng.uniform(-0.6, 0.6) * room_x, rng.uniform(-0.7, 0.7) * room_y
    end = CLIP_SECONDS * rng.uniform(0.8, 1.0)
    still = Track((x, x), (y, y), (size, size))
    if motion in ("moving left to right", "moving right to left"):
        sign = 1 if motion == "moving left to right" else -1
        first, last = _crossing(rng, shortest=0.45, reach=room_x + 0.06)
        return replace(still, x=(sign * first, sign * last), end=end)
    if motion in ("rising", "falling"):
        return _vertical(still, 1 if motion == "falling" else -1, end, rng)
    if motion == "bouncing":
        return _bouncing(still, rng)
    if motion in ("spinning clockwise", "spinning counterclockwise"):
        first = rng.uniform(-30, 30)
        turn = rng.uniform(400, 760) * (1 if motion == "spinning clockwise" else -1)
        return replace(still, y=(0.6 * y, 0.6 * y), angle=(first, first + turn))
    if motion in ("growing", "shrinking"):
        return _scaling(still, motion == "growing", end, rng)
    if motion in SOLID_MOTIONS:
        sign = 1 if motion == "rotating right in 3D" else -1
        return replace(still, view=(0.0, sign * rng.uniform(340, 640)))
    assert motion == "standing still", motion
    return still


def _vertical(still: Track, sign: int, end: float, rng: np.random.Generator) -> Track:
    size = rng.uniform(0.42, 0.58)
    first, last = _crossing(rng, shortest=0.45, reach=(1 - size) / 2 + 0.08)
    return replace(still, y=(sign * first, sign * last), size=(size, size), end=end)


def _bouncing(still: Track, rng: np.random.Generator) -> Track:
    size = rng.uniform(0.4, 0.54)
    ground = (1 - size) / 2 - rng.uniform(0.0, 0.06)
    drift = still.x[0] + rng.uniform(-0.08, 0.08)
    hop, hops = rng.uniform(0.75, 1.05) * 2 * ground, rng.uniform(1.8, 3.6)
    return Track((still.x[0], drift), (ground, ground), (size, size), hop=hop, hops=hops)


def _scaling(still: Track, growing: bool, end: float, rng: np.random.Generator) -> Track:
    large = rng.uniform(0.62, 0.85)
    small = large / rng.uniform(2.0, 3.0)
    x, y = 0.6 * still.x[0], rng.uniform(-0.5, 0.5) * (1 - large) / 2
    sizes = (small, large) if growing else (large, small)
    return Track((x, x), (y, y), sizes, end=end)


def _crossing(rng: np.random.Generator, *, shortest: float, reach: float) -> tuple[float, float]:
    """A way from left to right within +-`reach`, at least `shortest` long."""
    length = rng.uniform(max(shortest, 1.2 * reach), 2 * reach)
    first = rng.uniform(-reach, reach - length)
    return first, first + length


def pair(motion: str, relation: str, rng: np.random.Generator) -> tuple[Track, Track]:
    """Two objects that move alike and keep their relation, the first one `relation` the other."""
    size = rng.uniform(0.34, 0.44)
    beside = relation in ("left of", "right of")
    gap = rng.uniform(0.2, 0.25) if beside else rng.uniform(0.23, 0.26)
    across = rng.uniform(-0.12, 0.12)
    far = -gap if relation in ("left of", "above") else gap
    spots = [(far, across), (-far, across)] if beside else [(across, far), (across, -far)]
    one = _shared(motion, size, rng)
    tracks = [
        Track(
            (x + one.x[0], x + one.x[1]),
            (y + one.y[0], y + one.y[1]),
            one.size,
            one.angle,
        )
        for x, y in spots
    ]
    return tracks[0], tracks[1]


def _shared(motion: str, size: float, rng: np.random.Generator) -> Track:
    """What both objects of a pair do, about the middle of the frame."""
    away = rng.uniform(0.12, 0.17)
    turn = rng.uniform(400, 700)
    small = size / rng.uniform(1.7, 2.2)
    tracks = {
        "moving left to right": Track(x=(-away, away), size=(size, size)),
        "moving right to left": Track(x=(away, -away), size=(size, size)),
        "rising": Track(y=(away, -away), size=(size, size)),
        "falling": Track(y=(-away, away), size=(size, size)),
        "spinning clockwise": Track(angle=(0.0, turn), size=(size, size)),
        "spinning counterclockwise": Track(angle=(0.0, -turn), size=(size, size)),
        "growing": Track(size=(small, size)),
        "shrinking": Track(size=(size, small)),
        "standing still": Track(size=(size, size)),
    }
    return tracks[motion]


def word(motion: str, count: int, rng: np.random.Generator) -> Track:
    """A word of `count` letters; its size is its share of the frame's width."""
    width = rng.uniform(0.62, 0.85) * min(1.0, 0.45 + 0.14 * count)
    y, end = rng.uniform(-0.15, 0.15), CLIP_SECONDS * rng.uniform(0.55, 0.8)
    shown, sizes = (float(count), float(count)), (width, width)
    away = 0.5 + width / 2
    if motion == "sliding in from the left":
        return Track((-away, 0.0), (y, y), sizes, view=shown, end=end)
    if motion == "sliding in from the right":
        return Track((away, 0.0), (y, y), sizes, view=shown, end=end)
    if motion == "falling from above":
        return Track(y=(-0.8, y), size=sizes, view=shown, end=end)
    if motion == "zooming in":
        return Track(y=(y, y), size=(width / 6, width), view=shown, end=end)
    if motion == "appearing letter by letter":
        # A letter shows once the count reaches it; the first is there from the beginning.
        return Track(y=(y, y), size=sizes, view=(1.0, count + 0.01), end=end)
    assert motion == "standing still", motion
    return Track(y=(y, y), size=sizes, view=shown)


def camera(motion: str, rng: np.random.Generator) -> Track:
    """The camera over a textured ground: x and y where it looks, size its zoom factor."""
    if motion == "standing still":
        return Track(size=(1.0, 1.0))
    way, zoom = rng.uniform(0.2, 0.3), rng.uniform(1.7, 2.3)
    tracks = {
        "camera panning left": Track(x=(way, -way), size=(1.0, 1.0)),
        "camera panning right": Track(x=(-way, way), size=(1.0, 1.0)),
        "camera zooming in": Track(size=(1.0, zoom)),
        "camera zooming out": Track(size=(zoom, 1.0)),
    }
    return tracks[motion]
