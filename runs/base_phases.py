"""The phases of the base of mini that come before `mini()` itself.

    imagen-video train --preset runs/base_phases.py:images --stage base --out out/images
    imagen-video train --preset runs/base_phases.py:strided --stage base --out out/strided \
        --init-from out/images
    imagen-video train --preset runs/base_phases.py:things --stage base --out out/things \
        --init-from out/strided

Images first: a packed sequence of 16 images shows sixteen things for the price of one clip. Then
every fourth frame of many clips: what moves how is learned from the number of clips, not of frames
(docs/log.md). Then what things look like: images again, beside enough clips to keep moving.
Expected: after 2,500 steps of images coloured things on the right grounds; after 1,000 strided
steps rising, falling, growing and shrinking, after 1,500 left and right.
"""

from dataclasses import replace

from imagen_video import presets
from imagen_video.spec import CascadeSpec


def images() -> CascadeSpec:
    """mini with one clip and three packs of images a batch, at less noise."""
    return _base(1, 3, logsnr_shift=-3.0)


def strided() -> CascadeSpec:
    """mini with twelve clips of four frames and five packs of four images a batch."""
    return _base(12, 5, stride=4, logsnr_shift=-5.0)


def things() -> CascadeSpec:
    """mini with two clips of four frames and eighteen packs of four images a batch."""
    return _base(2, 18, stride=4, logsnr_shift=-3.5)


def _base(clips: int, image_packs: int, *, logsnr_shift: float, stride: int = 1) -> CascadeSpec:
    base, *others = presets.mini().stages
    train = replace(base.train, clips=clips, image_packs=image_packs, stride=stride)
    base = replace(base, train=train, logsnr_shift=logsnr_shift)
    return replace(presets.mini(), stages=(base, *others))
