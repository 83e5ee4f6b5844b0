"""The base's first lessons: mostly images, at less noise than videos need.

    imagen-video train --preset runs/images_first.py:mini --stage base --out out/mini/images

At log-SNR -5 a sequence of one thing in 16 places teaches where it is, hardly what it looks like;
48 images a step, seen at -1.5, teach that (docs/log.md). `runs/train_mini.sh` goes on from there.
"""

from dataclasses import replace

from imagen_video import presets
from imagen_video.spec import CascadeSpec, GuidanceSpec


def mini() -> CascadeSpec:
    """The preset with another mixture and other noise shifts for its base."""
    spec = presets.mini()
    base, *others = spec.stages
    train = replace(base.train, clips=1, image_packs=3, steps=6000, cooldown=0)
    # Little guidance: sheets of a young base should show what it knows.
    sampler = replace(base.sampler, guidance=GuidanceSpec(weight=1.0))
    base = replace(base, train=train, sampler=sampler, logsnr_shift=-3.0, image_logsnr_shift=-1.5)
    return replace(spec, stages=(base, *others))
