"""The committed evaluation prompts: 64 single objects on flat colours, fixed before training.

Run as a module to write `eval_prompts.jsonl` again; it never changes.
"""

import itertools
import json
from collections import Counter
from importlib.resources import files
from pathlib import Path

import numpy as np

from imagen_video.data.stickers import motions, splits
from imagen_video.data.stickers.concepts import COLOURS, CORE_CONCEPTS
from imagen_video.data.stickers.scene import clashes, scene_for

FILE = "eval_prompts.jsonl"
COUNT = 64
# Every eighth prompt asks for a style that moves in no training clip; every eighth for a held-out
# pair of concept and motion, or of colour and concept.
STYLES = (*splits.MOVING_STYLES * 2, "glossy cartoon", "black and white line art")
FIELDS = ("concept", "style", "background", "motion")


def eval_prompts() -> list[dict[str, str]]:
    """Each prompt with the attributes it names; the first 16 are a balanced sample too."""
    return [
        json.loads(line)
        for line in (files("imagen_video.data.stickers") / FILE).read_text().splitlines()
    ]


def choose() -> list[dict[str, str]]:
    """Balanced over motions, colours and concepts, by a fixed seed."""
    rng = np.random.Generator(np.random.Philox(key=[64, 64]))
    colours, used = itertools.cycle(COLOURS), Counter()
    kinds = itertools.cycle(motions.MOTIONS)
    rows = []
    for i in range(COUNT):
        style = STYLES[i % 8]
        if i % 16 == 15:
            style = "hand drawn clip art"
        colour, motion = next(colours), next(kinds)
        if i % 8 == 0:  # so that colours and motions do not march in step
            colour = next(colours)
        while not (fitting := _fitting(style, colour, motion, held_out=i % 8 == 3)):
            colour = next(colours)
        concept = min(fitting, key=lambda name: (used[name], rng.random()))
        used[concept] += 1
        facts = {"concept": concept, "style": style, "background": colour, "motion": motion}
        rows.append({"prompt": scene_for(**facts, seed=i).caption, **facts})
    return rows


def _fitting(style: str, colour: str, motion: str, *, held_out: bool) -> list[str]:
    """The concepts that can be seen on that ground, held out in that way or not."""
    return [
        name
        for name in CORE_CONCEPTS
        if colour not in clashes()[name][style]
        and held_out
        == (splits.held_out_motion(name, motion) or splits.held_out_colour(name, colour))
    ]


if __name__ == "__main__":
    lines = [json.dumps(row) for row in choose()]
    (Path(__file__).parent / FILE).write_text("\n".join(lines) + "\n")
