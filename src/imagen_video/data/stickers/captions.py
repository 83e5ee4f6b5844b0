"""Sentences for scenes: templates with paraphrases and synonyms, the plain wording most often."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from imagen_video.data.stickers.concepts import COLOURS, CONCEPTS

SYNONYM, PARAPHRASE = 0.25, 0.4
"""How often a concept goes by another name, and any other part by another wording."""

# The first wording is the plain one. Directions are often said twice: "left to right" and "right
# to left" are nearly one vector to a pooled text encoder, "to the right" tells them apart.
MOTION_WORDS = {
    "moving left to right": (
        "moving left to right",
        "moving left to right, to the right",
        "moving to the right",
        "moving from left to right",
        "drifting to the right",
        "sliding to the right",
        "going from the left to the right",
    ),
    "moving right to left": (
        "moving right to left",
        "moving right to left, to the left",
        "moving to the left",
        "moving from right to left",
        "drifting to the left",
        "sliding to the left",
        "going from the right to the left",
    ),
    "rising": ("rising", "rising, moving up", "climbing", "floating up", "moving upwards"),
    "falling": ("falling", "falling, moving down", "dropping", "sinking down", "moving downwards"),
    "bouncing": ("bouncing", "bouncing up and down", "hopping", "jumping up and down"),
    "spinning clockwise": (
        "spinning clockwise",
        "spinning clockwise, to the right",
        "turning clockwise",
        "rotating clockwise",
    ),
    "spinning counterclockwise": (
        "spinning counterclockwise",
        "spinning counterclockwise, to the left",
        "turning counterclockwise",
        "spinning anticlockwise",
    ),
    "growing": ("growing", "growing larger", "getting bigger", "coming closer"),
    "shrinking": ("shrinking", "shrinking smaller", "getting smaller", "going away"),
    "standing still": ("standing still", "staying still", "not moving", "resting"),
    "rotating left in 3D": (
        "rotating to the left in 3D",
        "turning to the left in 3D",
        "revolving leftwards in 3D",
    ),
    "rotating right in 3D": (
        "rotating to the right in 3D",
        "turning to the right in 3D",
        "revolving rightwards in 3D",
    ),
    "camera panning left": ("the camera panning left", "the camera moving to the left"),
    "camera panning right": ("the camera panning right", "the camera moving to the right"),
    "camera zooming in": ("the camera zooming in", "the camera moving closer"),
    "camera zooming out": ("the camera zooming out", "the camera moving away"),
    "appearing letter by letter": ("appearing letter by letter", "written letter by letter"),
    "sliding in from the left": ("sliding in from the left", "entering from the left"),
    "sliding in from the right": ("sliding in from the right", "entering from the right"),
    "falling from above": ("falling from above", "dropping in from above"),
    "zooming in": ("zooming in", "growing into view"),
}

STYLE_WORDS = {
    "3D render": ("3D render", "3D rendering", "3D"),
    "flat vector art": ("flat vector art", "flat vector", "flat design"),
    "glossy cartoon": ("glossy cartoon", "shiny cartoon", "cartoon"),
    "black and white line art": ("black and white line art", "line art", "line drawing"),
    "hand drawn clip art": ("hand drawn clip art", "hand drawn", "clip art drawing"),
}

RELATION_WORDS = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}

GROUND_WORDS = ("on {}", "on {}", "over {}", "in front of {}", "against {}")

PLURALS = ("cherries", "glasses", "grapes", "scissors", "popcorn", "corn")


@dataclass(frozen=True)
class Teller:
    """Chooses wordings; `plain` always takes the first one."""

    rng: np.random.Generator
    plain: bool = False

    def one(self, wordings: tuple[str, ...], often: float = PARAPHRASE) -> str:
        """The plain wording, or with probability `often` any of the others."""
        if self.plain or len(wordings) == 1 or self.rng.random() >= often:
            return wordings[0]
        return wordings[1 + int(self.rng.integers(len(wordings) - 1))]

    def thing(self, concept: str) -> str:
        """A concept under one of its names, with its article."""
        names = (concept, *CONCEPTS[concept].synonyms)
        return with_article(self.one(names, SYNONYM))

    def ground(self, background: str) -> str:
        """ "on a red background"."""
        if background in COLOURS:
            nouns = (f"{background} background", f"plain {background} background")
        else:
            nouns = (f"{background} background",)
        return self.one(GROUND_WORDS, 0.2).format(with_article(self.one(nouns, 0.15)))


@cache
def with_article(noun: str) -> str:
    """The noun with "a" or "an", unless it is a plural or a substance."""
    if noun in PLURALS:
        return noun
    an = noun[0].lower() in "aeiou" and not noun.startswith("uni")
    return f"{'an' if an else 'a'} {noun}"


def tell_object(scene, teller: Teller) -> str:
    """One object, or two in a relation, moving or (in an image) just there."""
    what = teller.thing(scene.concept)
    if scene.second_concept:
        relation = teller.one(RELATION_WORDS[scene.relation])
        what = f"{what} {relation} {teller.thing(scene.second_concept)}"
    motion, camera = "", ""
    if scene.motion:
        motion = teller.one(MOTION_WORDS[scene.motion])
        if scene.motion.startswith("camera"):
            motion, camera = "", ", " + motion
        else:
            both = scene.second_concept and scene.motion
            motion = f", both {motion}," if both else f" {motion}"
    style = teller.one(STYLE_WORDS[scene.style], 0.25)
    ground = teller.ground(scene.background)
    order = 1.0 if teller.plain else teller.rng.random()
    if order < 0.2 and style == scene.style:
        medium = style if style.endswith("art") else with_article(style)
        return f"{medium} of {what}{motion} {ground}{camera}"
    if order < 0.35:
        return f"{ground}, {what}{motion.rstrip(',')}{camera}, {style}"
    return f"{what}{motion} {ground}{camera}, {style}"


def tell_word(scene, teller: Teller) -> str:
    """A word, its letters, what it does and how it looks."""
    spelled = " ".join(scene.word)
    motion = f", {teller.one(MOTION_WORDS[scene.motion])}" if scene.motion else ""
    return (
        f'the word "{scene.word}", {spelled}{motion}, '
        f"{scene.ink} {scene.style} {teller.ground(scene.background)}"
    )
