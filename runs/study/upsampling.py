"""What is measured of upsampling stages: from true small clips, and from those of a base."""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from imagen_video.lowres import low_from_truth
from imagen_video.metrics.features import Extractor, frame_extractor
from imagen_video.metrics.frechet import Moments, Target
from imagen_video.metrics.measures import decibels, squared_error
from imagen_video.shapes import Float
from imagen_video.video import resize, to_float, to_uint8
from study.library import LIBRARIES
from study.measure import Measured, Subject, rights
from study.sample import Clips, sampled, with_sampler
from study.world import caption, held_out

LEVELS = (12.0, 5.0, 1.6)
"""Log-SNRs of the noise on the small clip, from next to none to the paper's SNR of 5."""
COUNT = 64
PROJECTED = 64
"""Proxy features on so many fixed random directions: no more than there are clips."""


def fine(subject: Subject) -> Measured:
    """Stage and source and level apart: what is seen, and how far it is from true clips; beside
    them the small clips enlarged without a stage."""
    assert subject.before is not None, subject.arm
    library, pixels = LIBRARIES["fine truth"], subject.truth("fine truth")["clips"]
    kept = [i for i, f in enumerate(library.facts("clips")) if not held_out(f)][:COUNT]
    asked, truth = [library.facts("clips")[i] for i in kept], pixels[kept]
    eye = subject.named_eye("looks")
    target = Target(Moments.of(eye.features(list(pixels))))
    lows = {
        "truth": to_uint8(low_from_truth(to_float(truth), subject.stage.spec)),
        "base": subject.made(asked, subject.before),
    }
    captions = [subject.diet.caption(f, i) for f, i in zip(asked, kept, strict=True)]
    rows, shown = [], []
    for source, low in lows.items():
        made = {"none": enlarged(low, truth)}
        for level in LEVELS:
            stage = with_sampler(subject.stage, aug_logsnr=level)
            made[f"{level:g}"] = sampled(
                stage, subject.place.encoder, captions, seed=subject.seed, low=low
            )
        for level, clips in made.items():
            seen = eye(list(clips))
            row = {
                "source": source,
                "level": level,
                "frechet": target.of(eye.features(list(clips))),
            }
            row["right"] = rights(asked, seen, ("concept", "style", "background"))
            if source == "truth":
                row["psnr"] = pooled_psnr(clips, truth)
            rows.append(row)
            shown += list(clips[:2])
    return Measured({"rows": rows}, shown)


def enlarged(low: Clips, like: Clips) -> Clips:
    """Bilinearly, without any stage."""
    return to_uint8(resize(to_float(low), *like.shape[-2:]))


def pooled_psnr(clips: Clips, truth: Clips) -> float:
    """PSNR of the error over all clips."""
    errors = [squared_error(a, b) for a, b in zip(clips, truth, strict=True)]
    return decibels(sum(errors) / len(errors))


def crops(subject: Subject) -> Measured:
    """Colour shift, consistency of frames, and the Frechet distance of first frames."""
    library, pixels = LIBRARIES["crop truth"], subject.truth("crop truth")["clips"]
    asked, truth = library.facts("clips")[:COUNT], pixels[:COUNT]
    low = to_uint8(low_from_truth(to_float(truth), subject.stage.spec))
    captions = [caption(facts) for facts in asked]
    clips = sampled(subject.stage, subject.place.encoder, captions, seed=subject.seed, low=low)
    target = Target(Moments.of(first_frames(subject, list(pixels))))
    facts = colour_shift(clips, truth) | {
        "first frame FID (proxy)": target.of(first_frames(subject, list(clips))),
        "psnr": pooled_psnr(clips, truth),
        "change error": change_error(clips, truth),
    }
    shown = [clip for pair in zip(clips[:8], truth[:8], strict=True) for clip in pair]
    return Measured(facts, shown)


def colour_shift(clips: Clips, truth: Clips) -> dict[str, float]:
    """How far the mean colour of a frame is from that of the true one (of 255, over the channels),
    and how much that differs from frame to frame of a clip."""
    shift = clips.float().mean((3, 4)) - truth.float().mean((3, 4))
    about = shift - shift.mean(1, keepdim=True)
    return {
        "colour shift": shift.norm(dim=2).mean().item(),
        "colour flicker": about.square().sum(2).mean(1).sqrt().mean().item(),
    }


def change_error(clips: Clips, truth: Clips) -> float:
    """How far the change from frame to frame is from the true one, mean of absolute values."""
    return (clips.float().diff(dim=1) - truth.float().diff(dim=1)).abs().mean().item()


@cache
def extractor(device: str) -> Extractor:
    return frame_extractor("proxy", device)


def first_frames(subject: Subject, clips: Sequence[Tensor]) -> Float[Tensor, "n d"]:
    """Proxy features of first frames, on a few fixed directions."""
    found = extractor(str(subject.place.device))(torch.stack([clip[0] for clip in clips]))
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(found.shape[1], PROJECTED, generator=generator) / PROJECTED**0.5
    return found @ mix
