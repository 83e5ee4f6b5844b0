"""Defects found in an earlier open implementation, each as a property that must hold here.

What other tests hold already: D1 and D20c test_trainer; D2, D3, D13, D16 test_unet; D12, D15, D23 b
to e test_cascade and test_cli; D14 test_guidance; D22 test_layers, test_encoder. D20b
test_distributed; D20d test_files; D20e test_tars; D21b test_encoder; D21c test_media, test_video;
D21d test_bad_samples; D21e test_cli, where training runs with the encoder blocked. D4: nothing here
is called causal. D6, D7, D9, D18, D19, D20 a and f are of features that are not here.
"""

from dataclasses import replace

import pytest
import torch

from imagen_video import presets
from imagen_video.data.clips import Crop
from imagen_video.data.mix import Mix
from imagen_video.data.stickers.source import StickerSource
from imagen_video.diffusion.schedule import CosineSchedule
from imagen_video.lowres import low_from_truth
from imagen_video.spec import StageSpec
from imagen_video.spec_unet import UNetSpec
from imagen_video.stage import build_unet
from imagen_video.training.trainer import RunSpec
from imagen_video.unet.embed import level_input
from imagen_video.unet.inputs import Conditioning
from imagen_video.unet.temporal import TemporalConv
from imagen_video.video import VideoFormat, resize, to_float


def call(unet: torch.nn.Module, spec: StageSpec, *, frames: int, is_video: bool) -> torch.Tensor:
    torch.manual_seed(1)
    side = spec.unet.multiple
    small = side // spec.space_factor
    low = torch.randn(1, frames, spec.low_channels, small, small) if spec.low_channels else None
    level = None if low is None else torch.ones(1)
    text = torch.randn(1, 1, 4, spec.unet.text_dim)
    seen = torch.ones(1, 1, 4, dtype=torch.bool)
    cond = Conditioning(text, seen, torch.tensor([is_video]), low, level)
    return unet(torch.randn(1, frames, 3, side, side), torch.zeros(1), cond)


@pytest.mark.parametrize("spec", presets.tiny().stages[1:], ids=lambda spec: spec.name)
def test_d5_still_in_super_resolution_never_meets_a_temporal_layer(spec):
    torch.manual_seed(0)
    unet = build_unet(spec)
    for parameter in unet.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    with_layers = call(unet, spec, frames=1, is_video=False)
    for module in unet.modules():
        if isinstance(module, TemporalConv):
            module.conv.weight.data.zero_()
            module.conv.bias.data.zero_()
    assert torch.equal(with_layers, call(unet, spec, frames=1, is_video=False))


def test_d8_all_frames_share_one_crop_and_low_is_the_same_region():
    spec = presets.mini().stage("ssr2")
    spec = replace(spec, train=replace(spec.train, crop=(96, 160), frames=4, image_packs=0))

    source, seen = StickerSource(0), []

    class Noting(StickerSource):
        def clip(self, index, format, crop):
            seen.append((index, crop))
            return super().clip(index, format, crop)

    video = Mix(Noting(0), spec, seed=3, steps=1)[0].video[0]
    index, crop = seen[0]
    whole = source.clip(index, spec.output, Crop(crop.frame, 0, 0, crop.frames, *spec.output.size))
    box = (slice(crop.top, crop.top + crop.height), slice(crop.left, crop.left + crop.width))
    assert (video.int() - whole.video[..., *box].int()).abs().max() <= 1
    low = low_from_truth(to_float(video)[None], spec)
    small = low_from_truth(to_float(whole.video)[None], spec)
    box = (slice(side.start // 4, side.stop // 4) for side in box)
    inner = (..., slice(2, -2), slice(2, -2))  # at its borders a crop is resized without neighbours
    assert (low[inner] - small[..., *box][inner]).abs().max() < 0.02


def test_d10_unknown_arguments_raise_and_temporal_layers_keep_the_frames():
    with pytest.raises(TypeError, match="kernel"):
        UNetSpec(widths=(8,), blocks=(1,), temporal="conv", temporal_levels=(), kernel=5)
    for frames in (1, 3, 8):
        spec = presets.tiny().stages[2]
        assert call(build_unet(spec), spec, frames=frames, is_video=True).shape[1] == frames


@pytest.mark.parametrize("wrong", [{"log_every": 0}, {"save_minutes": 0.0}, {"sheet_minutes": 0.0}])
def test_d21_no_interval_is_zero(wrong):
    with pytest.raises(ValueError, match="must be above 0, got 0"):
        RunSpec(**wrong)


CHOICES = [
    {"temporal": "attention"},
    {"temporal": "attention", "attention_levels": (0, 1)},
    {"attention_levels": (1,), "cross_levels": (0,)},
    {"norm": "layer"},
    {"patch": 2},
    {"patch": 4, "norm": "layer", "temporal_levels": ()},
    {"widths": (16,), "blocks": (2,), "temporal_levels": (0,)},
    {"widths": (16, 24, 32), "blocks": (1, 1, 2), "temporal_levels": (2,), "head_dim": 8},
]


@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize("low", [0, 2])
def test_d11_every_choice_runs_forward_and_backward_on_a_clip(choice, low):
    base = presets.tiny().stages[low]
    defaults = {"attention_levels": (), "cross_levels": (), "temporal": "conv"}
    unet = replace(base.unet, **(defaults | choice))
    side = 2 * unet.multiple
    output = VideoFormat(4, side, side, 6.0)
    small = VideoFormat(4, side // 2, side // 2, 6.0) if low else None
    spec = replace(base, unet=unet, input=small, output=output)
    network = build_unet(spec)
    torch.nn.init.normal_(network.out.weight)
    call(network, spec, frames=4, is_video=True).square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize("shift", [0.0, -5.0, 3.0])
def test_d17_log_snr_stays_in_bounds_and_enters_the_network_in_0_1(shift):
    levels = CosineSchedule(shift=shift)(torch.linspace(0, 1, 1001))
    assert levels.min() >= -20.0001
    assert levels.max() <= 20.0001
    inputs = level_input(levels)
    assert inputs.min() >= 0
    assert inputs.max() <= 1


def test_d23_steps_come_from_the_preset_and_the_low_video_is_upsampled_bilinearly():
    assert max(stage.sampler.num_steps for stage in presets.mini().stages) <= 32
    # At patch 1 the network's grid is the frame: a coarser video is upsampled to it, bilinearly.
    spec = presets.tiny().stages[2]
    spec = replace(spec, unet=replace(spec.unet, patch=1))
    unet = build_unet(spec)
    low = torch.rand(1, 2, 3, 8, 12)
    z = torch.zeros(1, 2, 3, 16, 24)
    text = torch.zeros(1, 1, 1, spec.unet.text_dim)
    cond = Conditioning(text, text[..., 0] > 1, torch.tensor([True]), low, torch.zeros(1))
    grid = unet._fold_low(z, cond)
    assert torch.allclose(grid.unflatten(0, (1, 2)), resize(low, 16, 24), atol=1e-6)
