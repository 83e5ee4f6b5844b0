"""What training never shows, fixed by digests of the names (not by a seed, so it never changes).

- Line art and hand drawn clip art move in no training clip; they are seen in images.
- A fifth of the concepts never rotates in 3D.
- `HELD_OUT_WORDS` appear in no training scene.
- 4 % of the (concept, motion) pairs appear in no training clip, and 4 % of the
  (colour, concept) pairs in no training scene, moving or still, on a flat ground of that colour.

The test split draws fresh scenes that may use all of these.
"""

import functools
import hashlib

from imagen_video.data.stickers.motions import MOTIONS
from imagen_video.data.stickers.vocabulary import WORDS

MOVING_STYLES = ("3D render", "flat vector art", "glossy cartoon")
IMAGE_STYLES = ("black and white line art", "hand drawn clip art")

PAIR_SHARE = 0.04
FLAT_SHARE = 0.2
HELD_OUT_WORD_COUNT = 100


def digest(*names: str) -> float:
    """A number in [0, 1) that depends on nothing but these names."""
    return int.from_bytes(hashlib.sha256("|".join(names).encode()).digest()[:6], "big") / 2**48


HELD_OUT_WORDS = frozenset(
    sorted(WORDS, key=lambda word: digest("held-out word", word))[:HELD_OUT_WORD_COUNT]
)
TRAINING_WORDS = tuple(word for word in WORDS if word not in HELD_OUT_WORDS)


@functools.cache
def held_out_motion(concept: str, motion: str | None) -> bool:
    """Whether no training clip shows this thing move like that."""
    if motion not in MOTIONS or motion == "standing still":
        return False
    return digest("held-out motion", concept, motion) < PAIR_SHARE


@functools.cache
def held_out_colour(concept: str, colour: str) -> bool:
    """Whether no training scene shows this thing on a flat ground of this colour."""
    return digest("held-out colour", concept, colour) < PAIR_SHARE


@functools.cache
def stays_flat(concept: str) -> bool:
    """Whether no training clip shows this thing rotate in 3D."""
    return digest("held-out rotation", concept) < FLAT_SHARE
