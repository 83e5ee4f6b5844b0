"""Teachers and students of the tiny cascade, and what they are shown."""

from dataclasses import replace

import torch

from imagen_video.spec import GuidanceSpec, StageSpec
from imagen_video.stage import Stage, build_unet
from imagen_video.training.student import Lesson, Student
from imagen_video.unet.inputs import Conditioning

ROWS = 3
OSCILLATING = GuidanceSpec(weight=5.0, low=1.0, constant_steps=2)


def lesson_of(teacher: Stage, lesson: Lesson, previous: Stage | None = None) -> Student:
    """A student that starts as its teacher."""
    spec = lesson.spec(teacher.spec, teacher.spec.train)
    unet = build_unet(spec)
    missing = unet.load_state_dict(teacher.unet.state_dict(), strict=False).missing_keys
    assert all(name.startswith(("guidance.", "side.")) for name in missing)
    return Student(spec, unet, teacher, lesson, previous)


def sampled(stage: Stage, guidance: GuidanceSpec) -> Stage:
    sampler = replace(stage.spec.sampler, guidance=guidance)
    return Stage(replace(stage.spec, sampler=sampler), stage.unet)


def learned(stage: Stage) -> Stage:
    """A random network that reads its weight, as one that has learned guidance."""
    spec = replace(stage.spec, unet=replace(stage.spec.unet, guided=(0.0, 15.0)))
    unet = build_unet(spec)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return Stage(spec, unet)


def given(spec: StageSpec) -> tuple[torch.Tensor, Conditioning]:
    """True videos, and captions that differ."""
    torch.manual_seed(2)
    video = torch.rand(ROWS, spec.output.frames, 3, *spec.output.size) * 2 - 1
    text = torch.randn(ROWS, 1, 5, spec.unet.text_dim)
    mask = torch.ones(ROWS, 1, 5, dtype=torch.bool)
    return video, Conditioning(text, mask, torch.tensor([True, True, True]))
