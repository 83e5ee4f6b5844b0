"""Noise of a sampling run: a function of what it is for, and nothing else."""

import pytest
import torch

from imagen_video.diffusion.sampler import Noise


def test_noise_does_not_depend_on_the_batch():
    noise, shape = Noise(seed=11), (3, 2, 4, 5)
    together = noise((4, *shape), stage="ssr1", step=3, sample=10)
    for i in range(4):
        alone = noise((1, *shape), stage="ssr1", step=3, sample=10 + i)
        assert torch.equal(alone[0], together[i])


@pytest.mark.parametrize("size", [(3, 5), (24, 40)])
def test_noise_of_a_few_frames_after_the_other_is_that_of_all_at_once(size):
    noise, shape = Noise(seed=11), (2, 9, 3, *size)
    draw = noise.in_turn(shape, stage="ssr3", step=0, sample=4)
    parts = torch.cat([draw(n) for n in (4, 0, 1, 4)], 1)
    assert torch.equal(parts, noise(shape, stage="ssr3", step=0, sample=4))


def test_noise_differs_by_seed_sample_stage_and_step():
    shape = (1, 2, 3, 8, 8)
    draws = [
        Noise(seed=0)(shape, stage="base", step=0),
        Noise(seed=1)(shape, stage="base", step=0),
        Noise(seed=0)(shape, stage="base", step=1),
        Noise(seed=0)(shape, stage="ssr1", step=0),
        Noise(seed=0)(shape, stage="base", step=0, sample=1),
    ]
    for i, one in enumerate(draws):
        for other in draws[:i]:
            assert abs(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]) < 0.25


def test_noise_is_standard_normal():
    noise = Noise(seed=5)((2, 4, 3, 100, 100), stage="base", step=0)
    assert noise.dtype == torch.float32
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1) < 0.01
    assert abs((noise**4).mean() - 3) < 0.1


def test_noise_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    Noise(seed=5)((1, 1, 3, 4, 4), stage="base", step=0)
    assert torch.equal(torch.get_rng_state(), before)
