"""The shipped cascade: whole, in its preset's shape, and doing what its text says."""

from dataclasses import replace

import pytest
import torch

from imagen_video import presets
from imagen_video.cascade import Cascade
from imagen_video.diffusion.sampler import Noise, finished
from imagen_video.diffusion.schedule import step_times
from imagen_video.index import located
from imagen_video.info import describe
from imagen_video.sampling import SampleSpec
from imagen_video.spec_unet import UNetSpec
from imagen_video.video import resize
from imagen_video.weights import load_stage, working_dtype

RGB = {"red": (220, 60, 60), "blue": (70, 110, 220), "yellow": (240, 215, 80)}


@pytest.fixture(scope="module")
def mini() -> Cascade:
    return Cascade.from_pretrained("mini")


def test_shipped_stages_are_the_presets_and_fit_in_50_mb(mini):
    assert mini.spec == presets.shipped("mini")
    # How its weights are sampled was measured on them (docs/results.md); the rest is the recipe.
    recipe = presets.mini()
    for stage, own in zip(mini.spec.stages, recipe.stages, strict=True):
        guided = replace(stage.unet, guided=None, side=None)
        assert replace(stage, sampler=own.sampler, unet=guided) == own
    assert sum(row.flops for row in describe(mini.spec)) <= 4e12
    folder = located("mini")
    assert sum(path.stat().st_size for path in folder.rglob("*.safetensors")) <= 50e6
    assert all(p.dtype == working_dtype() for s in mini.stages for p in s.unet.parameters())


def test_one_frame_is_sampled_as_the_images_of_training(mini):
    base, levels = mini.stages[0], []
    hook = base.unet.register_forward_hook(lambda _, args, out: levels.append(args[1][0]))
    wanted = SampleSpec(num_frames=1, steps=4, until="base")
    *_, _ = mini.stream(["a star on a red background"], wanted)
    hook.remove()
    assert base.spec.image_logsnr_shift != base.spec.logsnr_shift
    assert torch.allclose(torch.stack(levels), base.image_schedule(step_times(4)[:-1]).float())


@pytest.mark.parametrize("name", RGB)
def test_background_has_the_colour_of_the_prompt(mini, name):
    frames = mini(
        f"a star standing still on a {name} background, 3D render", until="base", steps=4
    ).frames
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


def test_windows_of_the_last_stage_equal_a_run_in_one_call(mini, monkeypatch):
    """45 dB for a whole run in bf16, and clearly less without the frames around a window."""
    folder = located("mini")
    stage, frames = load_stage(folder / "ssr3", dtype=torch.bfloat16), 24
    text, reach = mini.encoder(["a street"]), stage.spec.unet.temporal_reach
    rough = torch.rand(1, frames, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    cond = stage.conditioning(text, frames=frames, low=resize(rough, 32, 32), noise=Noise(0))
    seen: list[int] = []

    def sampled(window: int | None) -> torch.Tensor:
        sampler = replace(stage.spec.sampler, window=window, num_steps=4)
        seen.clear()
        with torch.inference_mode():
            states = stage.sample_steps(cond, (1, frames, 3, 128, 128), Noise(0), sampler=sampler)
            return finished(states)

    def decibels(found: torch.Tensor) -> float:
        return 10 * torch.log10(4 / (found - whole).square().mean()).item()

    hook = stage.unet.register_forward_hook(lambda _, args, out: seen.append(args[0].shape[1]))
    whole = sampled(None)
    assert seen == [frames] * 4
    equal = decibels(sampled(8))
    assert equal > 45
    assert max(seen) == 8 + 2 * reach < frames
    monkeypatch.setattr(UNetSpec, "temporal_reach", 0)
    alone = decibels(sampled(8))
    assert alone < equal - 6
    hook.remove()
