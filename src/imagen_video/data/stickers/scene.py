"""The sticker world: an endless supply of captioned scenes, each a function of seed and index."""

import functools
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from imagen_video.data.stickers import captions, motions, splits
from imagen_video.data.stickers.backgrounds import TEXTURE_KINDS, Background
from imagen_video.data.stickers.concepts import COLOURS, CONCEPTS, CORE_CONCEPTS, STYLES
from imagen_video.data.stickers.drawings import Drawing, Solid, Sprite, Word
from imagen_video.data.stickers.motions import Track
from imagen_video.data.stickers.sprites import pack_file
from imagen_video.data.stickers.words import FONTS, INKS

CLIP_SHARES = {"flat": 0.74, "textured": 0.07, "solid": 0.06, "text": 0.06, "pair": 0.07}
IMAGE_SHARES = {"flat": 0.75, "textured": 0.05, "text": 0.08, "pair": 0.12}

RELATIONS = ("left of", "right of", "above", "below")


@dataclass(frozen=True, kw_only=True)
class Attributes:
    """The facts that a caption tells, each as the first wording in `captions` has it."""

    family: str
    background: str
    style: str
    motion: str | None
    concept: str | None = None
    second_concept: str | None = None
    relation: str | None = None
    word: str | None = None
    ink: str | None = None

    def known(self) -> dict[str, str]:
        """The facts that there are, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Actor:
    """A drawing and how it moves."""

    drawing: Drawing
    track: Track


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A captioned clip or image before any pixel: what `render` needs, and what is true of it."""

    caption: str
    attributes: Attributes
    background: Background
    actors: tuple[Actor, ...]
    camera: Track


def scene_for(
    *,
    concept: str,
    style: str = "3D render",
    background: str = "red",
    motion: str | None = "standing still",
    seed: int = 0,
) -> Scene:
    """The scene of one object with these attributes, told plainly; the seed lays it out.

    ValueError for a name that the world does not know, and for a camera that films a flat ground:
    its motion could not be told from the object's.
    """
    if motion in motions.SOLID_MOTIONS:
        family = "solid"
    else:
        family = "flat" if background in COLOURS else "textured"
    known = (*motions.MOTIONS, *motions.SOLID_MOTIONS, *motions.CAMERA_MOTIONS, None)
    for name, value, names in (
        ("concept", concept, CONCEPTS),
        ("style", style, STYLES),
        ("motion", motion, known),
    ):
        if value not in names:
            raise ValueError(f"{name} {value!r} unknown; use one of {', '.join(map(str, names))}")
    if motion in motions.CAMERA_MOTIONS and background in COLOURS:
        raise ValueError(f"{motion} needs a textured background, {background!r} is flat")
    rng = np.random.Generator(np.random.Philox(key=[seed, 7]))
    facts = Attributes(
        family=family, background=background, style=style, motion=motion, concept=concept
    )
    return staged(facts, rng, plain=True)


def staged(facts: Attributes, rng: np.random.Generator, *, plain: bool = False) -> Scene:
    """Lay out and tell a scene of which the attributes are settled."""
    background = Background.named(
        facts.background, scale=rng.uniform(0.28, 0.6), phase=rng.uniform(0, 1)
    )
    motion = facts.motion or "standing still"
    filming = motion in motions.CAMERA_MOTIONS
    tell = captions.tell_object
    if facts.word:
        drawing = Word(facts.word, facts.style, facts.ink or "black")
        actors = [Actor(drawing, motions.word(motion, len(facts.word), rng))]
        tell = captions.tell_word
    elif facts.concept and facts.second_concept and facts.relation:
        tracks = motions.pair(motion, facts.relation, rng)
        pair = (facts.concept, facts.second_concept)
        actors = [
            Actor(Sprite(one, facts.style), track) for one, track in zip(pair, tracks, strict=True)
        ]
    else:
        assert facts.concept, facts
        kind = Solid if facts.family == "solid" else Sprite
        track = motions.single("standing still" if filming else motion, rng)
        actors = [Actor(kind(facts.concept, facts.style), track)]
    return Scene(
        caption=tell(facts, captions.Teller(rng, plain=plain)),
        attributes=facts,
        background=background,
        actors=tuple(actors),
        camera=motions.camera(motion if filming else "standing still", rng),
    )


@functools.cache
def clashes() -> dict[str, dict[str, list[str]]]:
    """Background colours, by concept and style, on which a drawing would vanish."""
    return json.loads(pack_file("clashes.json"))


class StickerWorld:
    """Endless captioned clips and images; each is a pure function of (seed, split, index).

    The test split draws other scenes and may use what `splits` holds out of training.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        split: Literal["train", "test"] = "train",
        concepts: tuple[str, ...] = CORE_CONCEPTS,
    ):
        unknown = [concept for concept in concepts if concept not in CONCEPTS]
        if unknown or len(concepts) < 2:
            raise ValueError(f"want two or more of the known concepts; unknown: {unknown}")
        self.seed, self.split, self.concepts = seed, split, concepts
        self.turning = tuple(
            concept for concept in concepts if split == "test" or not splits.stays_flat(concept)
        )

    def clip(self, index: int) -> Scene:
        """The moving scene of this index, to be rendered as a video."""
        return self._scene(index, video=True)

    def image(self, index: int) -> Scene:
        """The still scene of this index, to be rendered as one frame; any style."""
        return self._scene(index, video=False)

    def _scene(self, index: int, *, video: bool) -> Scene:
        kind = 2 * (self.split == "test") + video
        rng = np.random.Generator(np.random.Philox(key=[self.seed, 8 * index + kind]))
        shares = CLIP_SHARES if video else IMAGE_SHARES
        family = pick(rng, tuple(shares), tuple(shares.values()))
        draw = self._text if family == "text" else self._objects
        while not self._allowed(facts := draw(rng, family, video)):
            pass
        return staged(facts, rng)

    def _text(self, rng: np.random.Generator, family: str, video: bool) -> Attributes:
        background = pick(rng, tuple(COLOURS))
        fits = [ink for ink in INKS if far(INKS[ink], COLOURS[background])]
        words = splits.TRAINING_WORDS if self.split == "train" else splits.WORDS
        return Attributes(
            family=family,
            background=background,
            style=pick(rng, tuple(FONTS)),
            motion=pick(rng, motions.WORD_MOTIONS) if video else None,
            word=pick(rng, words),
            ink=pick(rng, fits),
        )

    def _objects(self, rng: np.random.Generator, family: str, video: bool) -> Attributes:
        free = self.split == "test" or not video
        motion = self._motion(rng, family) if video else None
        facts = Attributes(
            family=family,
            background=texture(rng) if family == "textured" else pick(rng, tuple(COLOURS)),
            style=pick(rng, tuple(STYLES) if free else splits.MOVING_STYLES),
            motion=motion,
            concept=pick(rng, self.turning if family == "solid" else self.concepts),
        )
        if family != "pair":
            return facts
        second = pick(rng, self.concepts)
        return replace(facts, second_concept=second, relation=pick(rng, RELATIONS))

    def _motion(self, rng: np.random.Generator, family: str) -> str:
        if family == "solid":
            return pick(rng, motions.SOLID_MOTIONS)
        if family == "textured" and rng.random() < 0.5:
            return pick(rng, motions.CAMERA_MOTIONS)
        if family == "pair":
            return "standing still" if rng.random() < 0.4 else pick(rng, motions.PAIR_MOTIONS)
        return pick(rng, motions.MOTIONS)

    def _allowed(self, facts: Attributes) -> bool:
        """Whether everything can be seen, and nothing held out is shown in training."""
        if facts.concept == facts.second_concept and facts.concept:
            return False
        for concept in filter(None, (facts.concept, facts.second_concept)):
            if not set(clashes()[concept][facts.style]).isdisjoint(facts.background.split()):
                return False
            if self.split == "train" and (
                splits.held_out_motion(concept, facts.motion)
                or splits.held_out_colour(concept, facts.background)
            ):
                return False
        return True


def pick(
    rng: np.random.Generator, items: Sequence[str], shares: Sequence[float] | None = None
) -> str:
    """One of the items, equally likely or by shares that sum to one."""
    place = rng.random()
    if shares is None:
        return items[int(place * len(items))]
    sums = itertools.accumulate(shares)
    return next((item for item, end in zip(items, sums, strict=True) if place < end), items[-1])


def texture(rng: np.random.Generator) -> str:
    """The name of a random texture of two colours that differ well."""
    first = pick(rng, tuple(COLOURS))
    second = pick(rng, [name for name in COLOURS if far(COLOURS[name], COLOURS[first])])
    kind = pick(rng, TEXTURE_KINDS)
    return Background(kind, first, second).name


def far(one: tuple[int, int, int], other: tuple[int, int, int]) -> bool:
    """Whether two colours are easily told apart."""
    return sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) > 110**2
