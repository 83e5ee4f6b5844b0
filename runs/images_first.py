"""The base's first lessons: mostly images.

    imagen-video train --preset runs/images_first.py:mini --stage base --out out/mini/images

A sequence of one thing in 16 places teaches where it is, hardly what it looks like; 48 different
images a step teach that (docs/log.md). `runs/train_mini.sh` goes on from there.
"""

from dataclasses import replace

from imagen_video import presets
from imagen_video.spec import CascadeSpec


def mini() -> CascadeSpec:
    """The preset with another mixture and a little less noise for its base."""
    spec = presets.mini()
    base, *others = spec.stages
    train = replace(base.train, clips=1, image_packs=3, steps=6000, cooldown=0)
    base = replace(base, train=train, logsnr_shift=-3.0)
    return replace(spec, stages=(base, *others))
