"""The sub-world of the studies: small enough for one small base to learn in minutes.

Twelve things, three styles that move and one that is seen in images alone, four motions, four
colours of the ground; 24x24 pixels. None of the things vanishes on any of the colours, so what is
drawn is independent, but for the pairs of thing and motion that no training clip shows.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from imagen_video.data.stickers.captions import with_article
from imagen_video.data.stickers.concepts import COLOURS
from imagen_video.data.stickers.drawings import SHAPE
from imagen_video.data.stickers.motions import SOLID_MOTIONS
from imagen_video.data.stickers.scene import Actor, Attributes, Scene, staged
from imagen_video.data.stickers.splits import digest
from imagen_video.data.stickers.vocabulary import WORDS
from imagen_video.video import VideoFormat

CONCEPTS = (
    *("airplane", "butterfly", "car", "duck", "guitar", "house"),
    *("mushroom", "penguin", "rainbow", "rocket", "watermelon", "whale"),
)
STYLES = ("flat vector art", "glossy cartoon", "hand drawn clip art")
STILL_STYLE = "black and white line art"
MOTIONS = ("moving left to right", "rising", "falling", "growing")
GROUNDS = ("red", "blue", "green", "yellow")
COLOUR_TABLE = {name: COLOURS[name] for name in GROUNDS}
PARTS = ("style", "motion", "background")
"""What a caption may leave unsaid."""

HELD_OUT_MOTIONS = frozenset(zip(CONCEPTS[::2], itertools.cycle(MOTIONS)))
"""Pairs of thing and motion that no training clip shows: one each for every second thing."""
STAYS_FLAT = CONCEPTS[::4]
"""Things that no training clip shows rotating in 3D."""
TURNING_STYLE = STYLES[0]
LETTERING, INK = "comic lettering", "black"
THREE_LETTERS = tuple(word for word in WORDS if len(word) == 3)
HELD_OUT_WORDS = tuple(sorted(THREE_LETTERS, key=lambda word: digest("study", word))[::5])
WORD_SIZE = 1.3
"""Three letters are this many times as large as the sticker world has them: six pixels each."""


def combinations(
    styles: Sequence[str] = STYLES, motions: Sequence[str] = MOTIONS
) -> list[Attributes]:
    """Every thing in every style and motion, the colours taking turns."""
    every = itertools.product(CONCEPTS, styles, motions)
    return [
        single(concept, style, motion, GROUNDS[i % len(GROUNDS)])
        for i, (concept, style, motion) in enumerate(
            sorted(every, key=lambda facts: digest("order", *facts))
        )
    ]


def single(concept: str, style: str, motion: str | None, background: str) -> Attributes:
    """One thing on a flat ground; motion None is an image."""
    family = "solid" if motion in SOLID_MOTIONS else "flat"
    return Attributes(
        family=family, background=background, style=style, motion=motion, concept=concept
    )


def spelled(word: str, background: str) -> Attributes:
    """A word that stands still."""
    return Attributes(
        family="text",
        background=background,
        style=LETTERING,
        motion="standing still",
        word=word,
        ink=INK,
    )


def held_out(facts: Attributes) -> bool:
    """Whether no training clip shows this pair of thing and motion, or this word."""
    if facts.word:
        return facts.word in HELD_OUT_WORDS
    if facts.motion in SOLID_MOTIONS:
        return facts.concept in STAYS_FLAT
    return (facts.concept, facts.motion) in HELD_OUT_MOTIONS


def caption(facts: Attributes, unsaid: Sequence[str] = ()) -> str:
    """The plain sentence for a scene, some of PARTS left out."""
    if facts.word:
        return (
            f'the word "{facts.word}", {" ".join(facts.word)}, on a {facts.background} background'
        )
    assert facts.concept, facts
    said = {part: getattr(facts, part) for part in PARTS if part not in unsaid}
    text = with_article(facts.concept)
    if said.get("motion"):
        text += f" {said['motion']}"
    if "background" in said:
        text += f" on a {said['background']} background"
    return text + (f", {said['style']}" if "style" in said else "")


def scene(facts: Attributes, seed: int, format: VideoFormat) -> Scene:
    """A scene of these facts, laid out by the seed, its thing as large in a square frame as in the
    wide one that scenes are made for."""
    made = staged(facts, np.random.Generator(np.random.Philox(key=[seed, 11])), plain=True)
    scale = WORD_SIZE if facts.word else max(1.0, SHAPE * format.height / format.width)
    return replace(made, actors=tuple(enlarged(actor, scale) for actor in made.actors))


def enlarged(actor: Actor, scale: float) -> Actor:
    first, last = actor.track.size
    return replace(actor, track=replace(actor.track, size=(scale * first, scale * last)))


@dataclass(frozen=True)
class Draw:
    """What a set of training data holds: facts number i of its clips, and of its stills."""

    styles: tuple[str, ...] = STYLES
    motions: tuple[str, ...] = MOTIONS
    still_styles: tuple[str, ...] = (*STYLES, STILL_STYLE)

    def clip(self, index: int) -> Attributes:
        return single(
            pick("concept", index, CONCEPTS),
            pick("style", index, self.styles),
            pick("motion", index, self.motions),
            pick("ground", index, GROUNDS),
        )

    def still(self, index: int) -> Attributes:
        return single(
            pick("still concept", index, CONCEPTS),
            pick("still style", index, self.still_styles),
            None,
            pick("still ground", index, GROUNDS),
        )


@dataclass(frozen=True)
class DrawWords:
    """Three-letter words, in stills as in clips."""

    words: tuple[str, ...] = THREE_LETTERS

    def clip(self, index: int) -> Attributes:
        return spelled(pick("word", index, self.words), pick("ground", index, GROUNDS))

    def still(self, index: int) -> Attributes:
        return spelled(pick("still word", index, self.words), pick("still ground", index, GROUNDS))


def pick(what: str, index: int, items: Sequence[str]) -> str:
    """One of the items, a function of the index."""
    return items[int(len(items) * digest(what, str(index)))]
