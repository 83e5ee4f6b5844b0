"""Every sentence that training or measuring may say: a short list, embedded once."""

import itertools

from imagen_video.data.stickers.motions import SOLID_MOTIONS
from study.arms import table
from study.judges import ALL_STYLES
from study.world import (
    CONCEPTS,
    GROUNDS,
    MOTIONS,
    PARTS,
    THREE_LETTERS,
    TURNING_STYLE,
    caption,
    single,
    spelled,
)


def every_caption() -> set[str]:
    """Those of all arms' data, and those that they are measured with."""
    said = {""}
    for diet in {arm.diet for arm in table().values() if arm.diet is not None}:
        said |= diet.captions()
    for concept, ground in itertools.product(CONCEPTS, GROUNDS):
        said.add(caption(single(concept, TURNING_STYLE, None, ground), PARTS))
        for style, motion in itertools.product(ALL_STYLES, MOTIONS):
            said.add(caption(single(concept, style, motion, ground)))
        said.update(
            caption(single(concept, TURNING_STYLE, motion, ground)) for motion in SOLID_MOTIONS
        )
    said.update(caption(spelled(word, ground)) for word in THREE_LETTERS for ground in GROUNDS)
    return said
