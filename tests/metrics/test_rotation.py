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


def test_what_was_not_to_turn_is_not_asked():
    assert rotation(torch.zeros(16, 3, 24, 40, dtype=torch.uint8), {"motion": "rising"}) is None
