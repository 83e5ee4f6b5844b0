"""Super-resolution conditioning: the same in training and sampling, and fair to packed images."""

from dataclasses import replace

import pytest
import torch

from imagen_video import presets
from imagen_video.diffusion.schedule import alpha_sigma
from imagen_video.lowres import AUGMENTATION, level_at, low_from_truth, prepare
from imagen_video.motion import between
from imagen_video.video import resize

TSR, SSR = presets.tiny().stages[1], presets.tiny().stages[2]
CLEAN = torch.full((2,), 20.0)


def test_space_shrinks_antialiased_and_time_skips_frames():
    video = torch.rand(2, 8, 3, 16, 24) * 2 - 1
    assert torch.equal(low_from_truth(video, SSR), resize(video, 8, 12))
    assert torch.equal(low_from_truth(video, TSR), video[:, ::2])


def test_noise_has_the_level_it_says():
    low, noise = torch.randn(1, 4, 3, 40, 40), torch.randn(1, 4, 3, 40, 40)
    logsnr = torch.tensor([1.5])
    alpha, sigma = alpha_sigma(logsnr)
    made = prepare(low, noise, logsnr, spec=SSR, is_video=torch.tensor([True]))
    assert torch.allclose(made, alpha * low + sigma * noise)


def test_unknown_frames_of_videos_are_mixed_and_those_of_images_blank():
    low = torch.rand(2, 4, 3, 8, 12) + 1
    kinds = torch.tensor([True, False])
    made = prepare(low, torch.zeros_like(low), CLEAN, spec=TSR, is_video=kinds)
    assert made.shape == (2, 8, 7, 8, 12)
    assert torch.allclose(made[:, ::2, :3], low, atol=1e-4)
    assert (made[:, ::2, 3:6] == 0).all()
    assert (made[:, ::2, 6] == 1).all()
    mixed, change = between(low[0, :-1], low[0, 1:], 0.5)
    assert torch.allclose(made[0, 1:-1:2, :3], mixed, atol=1e-4)
    assert torch.allclose(made[0, 1:-1:2, 3:6], change, atol=1e-4)
    assert torch.allclose(made[0, -1, :3], low[0, -1], atol=1e-4)
    assert (made[:, 1::2, 6] == 0).all()
    assert (made[1, 1::2] == 0).all()


def test_levels_are_drawn_a_clip_within_the_bound():
    spec = replace(SSR, aug_max=0.4)
    levels = level_at(torch.rand(10_000, generator=torch.Generator().manual_seed(0)), spec)
    least = AUGMENTATION(torch.tensor(0.4))
    assert levels.min() >= least
    assert levels.max() <= 20
    assert levels.unique().numel() > 9_000


@pytest.mark.parametrize("spec", presets.mini().stages[1:], ids=lambda spec: spec.name)
def test_low_video_of_every_stage_has_its_input_size(spec):
    video = torch.zeros(1, 4, 3, 2 * spec.unet.multiple, spec.unet.multiple)
    low = low_from_truth(video, spec)
    assert low.shape[1] == 4 // spec.time_factor
    assert low.shape[-2] == video.shape[-2] // spec.space_factor
