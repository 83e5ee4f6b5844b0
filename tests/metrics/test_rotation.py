import pytest
import torch

from imagen_video.data.stickers import render, scene_for
from imagen_video.data.stickers.motions import SOLID_MOTIONS
from imagen_video.evaluation.reference import rotation
from imagen_video.video import VideoFormat


@pytest.mark.parametrize("motion", SOLID_MOTIONS)
@pytest.mark.parametrize("size", [(24, 40), (96, 160)])
def test_the_way_a_solid_turns_is_told_by_its_views(motion, size):
    for seed, concept in enumerate(("rocket", "cat", "car")):
        facts = {"concept": concept, "style": "3D render", "motion": motion}
        scene = scene_for(**facts, background="blue", seed=seed)
        clip = render(scene, VideoFormat(16, *size, 3.0))
        assert rotation(clip, facts) == motion
        other = SOLID_MOTIONS[motion == SOLID_MOTIONS[0]]
        assert rotation(clip.flip(0), facts) == other
        noise = torch.randn(clip.shape, generator=torch.Generator().manual_seed(seed))
        assert rotation((clip + 10 * noise).clamp(0, 255).byte(), facts) == motion


@pytest.mark.parametrize("motion", ["still", "rising", "moving left to right", "blank"])
def test_what_does_not_turn_is_not_said_to_turn(motion):
    asked = {"concept": "rocket", "style": "3D render", "motion": SOLID_MOTIONS[0]}
    shown = asked | {"motion": SOLID_MOTIONS[1] if motion in ("still", "blank") else motion}
    clip = render(scene_for(**shown, background="blue", seed=0), VideoFormat(16, 24, 40, 3.0))
    if motion in ("still", "blank"):
        clip = clip[:1].expand(16, -1, -1, -1).clone()
    if motion == "blank":
        clip[:] = 90
    assert rotation(clip, asked) == "still"


def test_what_was_not_to_turn_is_not_asked():
    assert rotation(torch.zeros(16, 3, 24, 40, dtype=torch.uint8), {"motion": "rising"}) is None
