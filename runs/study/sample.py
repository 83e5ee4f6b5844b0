"""Many clips of a stage at once, as 8-bit frames."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from imagen_video.diffusion.sampler import Noise, finished
from imagen_video.shapes import UInt8
from imagen_video.stage import Stage
from imagen_video.text.encoder import TextEncoder
from imagen_video.video import to_float, to_uint8

TOGETHER = 48
Clips = UInt8[Tensor, "b f c h w"]


def with_sampler(stage: Stage, **changes: Any) -> Stage:
    """The same network sampled another way."""
    sampler = replace(stage.spec.sampler, **changes)
    return Stage(replace(stage.spec, sampler=sampler), stage.unet)


@torch.inference_mode()
def sampled(
    stage: Stage,
    encoder: TextEncoder,
    captions: Sequence[str],
    *,
    seed: int,
    low: Clips | None = None,
) -> Clips:
    """A clip a caption, in the precision of the stage's weights, upsampled from `low` if given.

    The noise of a clip goes by its place, so that arms of a seed start from the same.
    """
    spec, noise, made = stage.spec, Noise(seed), []
    shape = (spec.output.frames, 3, *spec.output.size)
    for start in range(0, len(captions), TOGETHER):
        part = slice(start, start + TOGETHER)
        text = encoder(captions[part]).to(dtype=torch.float32)
        small = None if low is None else to_float(low[part])
        cond = stage.conditioning(text, frames=shape[0], low=small, noise=noise, sample=start)
        states = stage.sample_steps(cond, (len(text.tokens), *shape), noise, sample=start)
        made.append(to_uint8(finished(states)).cpu())
    return torch.cat(made)
