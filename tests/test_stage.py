"""How a stage is sampled: in windows, and at which levels."""

from dataclasses import replace

import pytest
import torch

from imagen_video.diffusion.sampler import Noise, finished
from imagen_video.diffusion.schedule import CosineSchedule, step_times
from imagen_video.info import describe
from imagen_video.spec import GuidanceSpec, SamplerSpec
from imagen_video.stage import Stage, build_unet

PROMPT = "a cat moving left to right on a red background, 3D render"


@pytest.mark.parametrize("weight", [None, 3.0])
def test_windows_of_the_last_stage_equal_one_call(tiny, weight):
    """Where a network beside it answers for guidance, too."""
    stage = tiny.stages[-1] if weight is None else _with_side(tiny.stages[-1])
    torch.manual_seed(0)
    z, low = torch.randn(1, 13, 3, 32, 48), torch.randn(1, 13, 3, 16, 24)
    noise = torch.zeros(1)
    cond = _conditioning(tiny, stage, low)
    if weight is not None:
        cond = replace(cond, guidance=torch.tensor([weight]))
    once = stage.denoiser(cond)(z, noise).x
    for window in (1, 4, 8):
        windows = stage.denoiser(cond, window=window)(z, noise).x
        assert (windows - once).abs().max() < 1e-5


@pytest.mark.parametrize("window", [1, 4, 8])
@pytest.mark.parametrize("weight", [0.0, 2.0])
@pytest.mark.parametrize("steps", [1, 3])
def test_a_run_in_windows_equals_one_in_one_call(tiny, steps, window, weight):
    stage = tiny.stages[-1]
    torch.manual_seed(0)
    cond = _conditioning(tiny, stage, torch.randn(1, 13, 3, 16, 24))
    guidance = GuidanceSpec(weight=weight)
    videos, parts = [], []
    for frames, move in (
        (None, "ddim"),
        (window, "ddim"),
        (window, "ancestral"),
        (13, "ancestral"),
    ):
        sampler = SamplerSpec(num_steps=steps, guidance=guidance, window=frames, move=move)
        with torch.inference_mode():
            states = stage.sample_steps(
                cond, (1, 13, 3, 32, 48), Noise(0), sampler=sampler, negative=cond.without_text()
            )
            shown = []
            videos.append(finished(_noted(states, shown)))
        parts.append(len(shown))
    whole, windows, noised_windows, noised = videos
    assert (windows - whole).abs().max() < 1e-5
    assert (noised_windows - noised).abs().max() < 1e-5
    # Only DDIM moves each window by itself.
    assert parts == [steps, steps * -(-13 // window), steps, steps]


def test_a_run_in_windows_stays_in_the_memory_of_its_noise(tiny):
    stage = tiny.stages[-1]
    cond = _conditioning(tiny, stage, torch.zeros(1, 13, 3, 16, 24))
    sampler = SamplerSpec(num_steps=3, window=4)
    with torch.inference_mode():
        states = stage.sample_steps(cond, (1, 13, 3, 32, 48), Noise(0), sampler=sampler)
        where = {state.z.untyped_storage().data_ptr() for state in states}
    assert len(where) == 1


@pytest.mark.parametrize("window", [None, 4])
def test_a_sampler_can_space_its_steps_otherwise_than_training(tiny, window):
    """Levels and where guidance is taken; as many calls are counted before."""
    stage = tiny.stages[-1]
    guidance = GuidanceSpec(weight=2.0, interval=(-30.0, 0.0))
    sampler = replace(
        stage.spec.sampler, num_steps=4, guidance=guidance, window=window, logsnr_shift=3.0
    )
    assert stage.spec.logsnr_shift != 3.0
    cond, asked = _conditioning(tiny, stage, torch.zeros(1, 13, 3, 16, 24)), []
    hook = stage.unet.register_forward_pre_hook(lambda _, args: asked.append(args[1].tolist()))
    with torch.inference_mode():
        finished(stage.sample_steps(cond, (1, 13, 3, 32, 48), Noise(0), sampler=sampler))
    hook.remove()
    levels = CosineSchedule(shift=3.0)(step_times(4)[:-1]).tolist()
    wanted = [[level] * (2 if level <= 0 else 1) for level in levels]
    assert {len(call) for call in wanted} == {1, 2}
    for call in asked:
        assert min(abs(call[0] - level) for level in levels) < 1e-5
    assert {(round(call[0], 3), len(call)) for call in asked} == {
        (round(call[0], 3), len(call)) for call in wanted
    }
    row = describe(tiny.with_sampler(stage.spec.name, sampler).spec)[-1]
    assert row.calls == sum(len(call) for call in wanted)


def test_guidance_of_a_side_network_takes_one_call_a_step(tiny):
    stage, told = _with_side(tiny.stages[-1]), []
    cond = _conditioning(tiny, stage, torch.zeros(1, 5, 3, 16, 24))
    guidance = GuidanceSpec(weight=2.0, interval=(-30.0, 0.0))
    sampler = replace(stage.spec.sampler, num_steps=4, guidance=guidance, logsnr_shift=3.0)
    hook = stage.unet.register_forward_pre_hook(
        lambda _, args: told.append((len(args[0]), args[1].item(), args[2].guidance))
    )
    with torch.inference_mode():
        finished(stage.sample_steps(cond, (1, 5, 3, 32, 48), Noise(0), sampler=sampler))
    hook.remove()
    # Where there is no weight the side network is not asked at all.
    assert [(clips, weight and weight.item()) for clips, _, weight in told] == [
        (1, 2.0 if level <= 0 else None) for _, level, _ in told
    ]
    assert {level <= 0 for _, level, _ in told} == {True, False} and len(told) == 4


def test_a_stage_with_a_side_network_is_guided_away_from_a_prompt_by_two_calls(tiny):
    stage, knowing = tiny.stages[-1], _with_side(tiny.stages[-1])
    cond = _conditioning(tiny, stage, torch.zeros(1, 5, 3, 16, 24))
    away = replace(cond, text=torch.randn_like(cond.text))
    sampler = SamplerSpec(num_steps=2, guidance=GuidanceSpec(weight=2.0), aug_logsnr=3.0)
    made = []
    for which in (stage, knowing):
        with torch.inference_mode():
            states = which.sample_steps(
                cond, (1, 5, 3, 32, 48), Noise(0), sampler=sampler, negative=away
            )
            made.append(finished(states))
    assert torch.equal(*made)


def _with_side(stage: Stage) -> Stage:
    spec = replace(stage.spec, unet=replace(stage.spec.unet, guided=(0.0, 9.0), side=8))
    unet = build_unet(spec).requires_grad_(False)
    unet.load_state_dict(stage.unet.state_dict(), strict=False)
    assert unet.side is not None
    for parameter in unet.side.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    return Stage(spec, unet)


def _noted(states, shown):
    for state in states:
        shown.append(state.frames)
        yield state


def _conditioning(tiny, stage, low):
    text = tiny.encoder([PROMPT])
    return stage.conditioning(text, frames=low.shape[1], low=low, noise=Noise(0))
