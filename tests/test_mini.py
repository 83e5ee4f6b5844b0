"""The shipped cascade: whole, in its preset's shape, and doing what its text says."""

import pytest
import torch

from imagen_video import presets
from imagen_video.cascade import Cascade, shipped

RGB = {"red": (220, 60, 60), "blue": (70, 110, 220), "yellow": (240, 215, 80)}


@pytest.fixture(scope="module")
def mini() -> Cascade:
    return Cascade.from_pretrained("mini")


def test_shipped_networks_are_the_presets_and_fit_in_50_mb(mini):
    assert [s.spec.unet for s in mini.stages] == [s.unet for s in presets.mini().stages]
    folder = shipped("mini")
    assert folder is not None
    assert sum(path.stat().st_size for path in folder.rglob("*.safetensors")) <= 50e6
    assert all(p.dtype == torch.bfloat16 for s in mini.stages for p in s.unet.parameters())


@pytest.mark.parametrize("name", RGB)
def test_background_has_the_colour_of_the_prompt(mini, name):
    frames = mini(f"a star standing still on a {name} background, 3D render", until="base").frames
    corner = frames[0, :, :, :2, :2].float().mean((0, 2, 3))
    distance = {n: (corner - torch.tensor(rgb)).abs().sum() for n, rgb in RGB.items()}
    assert min(distance, key=distance.__getitem__) == name


def test_upsampling_stages_keep_what_they_are_given(mini):
    """A flat video stays flat and keeps its colour through every upsampling stage."""
    for stage in mini.spec.stages[1:]:
        video = torch.tensor(RGB["blue"], dtype=torch.uint8)[None, :, None, None]
        video = video.expand(2, 3, 24, 40).contiguous()
        *_, last = mini.upscale(video, "a blue background", stages=[stage.name], steps=4)
        error = (last.video.float() - video[0, :, :1, :1].float()).abs().mean()
        assert error < 12, stage.name
