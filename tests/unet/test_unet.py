"""The U-Net's promises: images never meet, frames and sizes are free, what is off is off."""

import functools
from dataclasses import replace

import pytest
import torch

from imagen_video import presets
from imagen_video.spec import StageSpec
from imagen_video.stage import build_unet
from imagen_video.unet.embed import TextIn
from imagen_video.unet.inputs import Conditioning
from imagen_video.unet.spatial import GroupNorm, make_norm
from imagen_video.unet.temporal import PlaceAndTime
from imagen_video.video import resize

TINY = presets.tiny().stages
# The networks of mini at the smallest legal size and a few frames: every layer of the preset runs.
MINI = presets.mini().stages
V_STAGES = [
    replace(stage, unet=replace(stage.unet, predicts="v")) for stage in presets.tiny().stages[1:3]
]


def thin(stage: StageSpec) -> StageSpec:
    """A stage of `paper()` with every layer it has, a sixteenth as wide and one block a level."""
    unet = stage.unet
    widths = tuple(width // 16 for width in unet.widths)
    blocks = (1,) * len(widths)
    return replace(
        stage,
        unet=replace(unet, widths=widths, blocks=blocks, head_dim=8, embed_dim=32, text_dim=16),
    )


PAPER = [thin(stage) for stage in presets.paper().stages]
EVERY = [
    pytest.param(stage, id=f"{preset}-{stage.name}")
    for preset, stages in (("tiny", TINY), ("mini", MINI), ("paper", PAPER))
    for stage in stages
]


@functools.cache
def random_unet(spec: StageSpec) -> torch.nn.Module:
    """A network in which nothing is zero any more, so that leaks show. Tests share it."""
    torch.manual_seed(0)
    unet = build_unet(spec)
    for parameter in unet.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return unet


def inputs(spec: StageSpec, *, clips=1, frames=3, is_video=True, captions=1, scale=1):
    """A random noisy video and conditioning of the smallest legal size (times `scale`)."""
    torch.manual_seed(1)
    side = spec.unet.multiple * scale
    z = torch.randn(clips, frames, 3, side, side)
    text = torch.randn(clips, captions, 5, spec.unet.text_dim)
    mask = torch.arange(5).expand(clips, captions, 5) < 4
    low = level = None
    if spec.low_channels:
        small = side // spec.space_factor
        low = torch.randn(clips, frames, spec.low_channels, small, small)
        level = torch.full((clips,), 4.0)
    cond = Conditioning(text, mask, torch.full((clips,), is_video), low, level)
    return z, torch.full((clips,), -1.0), cond


def frame(cond: Conditioning, i: int) -> Conditioning:
    return cond.window(slice(i, i + 1))


def test_whitened_captions_differ_in_every_direction_alike():
    torch.manual_seed(0)
    tokens = 5 + torch.randn(4000, 16) @ torch.diag(torch.logspace(0, -0.8, 16))
    layer = TextIn(16)
    assert torch.equal(layer(tokens), tokens)
    layer.fit(tokens)
    white = layer(tokens)
    assert white.mean(0).abs().max() < 1e-3
    assert torch.allclose(white.T.cov(), torch.eye(16), atol=0.15)


@pytest.mark.parametrize("is_video", [True, False])
def test_a_base_knows_the_frames_of_a_video_by_their_numbers(is_video):
    unet = random_unet(TINY[0])
    z, logsnr, cond = inputs(TINY[0], is_video=is_video)
    plain = unet(z, logsnr, cond)
    assert torch.equal(plain, unet(z, logsnr, replace(cond, frame_index=torch.arange(3))))
    for other in ([1, 2, 3], [0, 2, 4]):
        told = unet(z, logsnr, replace(cond, frame_index=torch.tensor(other)))
        assert torch.equal(plain, told) == (not is_video)


@pytest.mark.parametrize("spec", EVERY)
def test_packed_images_equal_each_image_alone(spec):
    unet = random_unet(spec)
    z, logsnr, cond = inputs(spec, is_video=False, captions=3)
    packed = unet(z, logsnr, cond)
    for i in range(3):
        alone = unet(z[:, i : i + 1], logsnr, frame(cond, i))
        assert torch.allclose(packed[:, i : i + 1], alone, atol=2e-5)


@pytest.mark.parametrize("spec", EVERY)
def test_gradient_between_packed_images_is_exactly_zero(spec):
    unet = random_unet(spec)
    z, logsnr, cond = inputs(spec, is_video=False, captions=3)
    z.requires_grad_()
    sources = [z] + ([cond.lowres.requires_grad_()] if cond.lowres is not None else [])
    gradients = torch.autograd.grad(unet(z, logsnr, cond)[:, 1].square().sum(), sources)
    for gradient in gradients:
        assert gradient[:, 1].abs().max() > 0
        assert gradient[:, 0].abs().max() == 0
        assert gradient[:, 2].abs().max() == 0


@pytest.mark.parametrize("spec", EVERY)
def test_frames_of_a_video_do_meet(spec):
    unet = random_unet(spec)
    z, logsnr, cond = inputs(spec)
    z.requires_grad_()
    gradient = torch.autograd.grad(unet(z, logsnr, cond)[:, 0].square().sum(), z)[0]
    assert gradient[:, 1].abs().max() > 0  # and back in time: nothing is causal


@pytest.mark.parametrize("spec", EVERY)
def test_mixed_batch_equals_its_halves(spec):
    unet = random_unet(spec)
    z, logsnr, video = inputs(spec, captions=3)
    images = replace(video, is_video=torch.tensor([False]))
    both = unet(torch.cat([z, z]), torch.cat([logsnr, logsnr]), video.cat(images))
    assert torch.allclose(both[:1], unet(z, logsnr, video), atol=2e-5)
    assert torch.allclose(both[1:], unet(z, logsnr, images), atol=2e-5)


@pytest.mark.parametrize("spec", EVERY + [pytest.param(p, id=p.name) for p in V_STAGES])
def test_fresh_network_gives_zero_or_the_upsampled_low_video(spec):
    z, logsnr, cond = inputs(spec, scale=4)
    made = build_unet(spec)(z, logsnr, cond)
    if cond.lowres is None or spec.unet.predicts == "v":
        assert made.abs().max() == 0
        return
    up = resize(cond.lowres[:, :, :3], *z.shape[-2:])
    inner = slice(spec.unet.patch, -spec.unet.patch)  # the convolution pads with zeros instead
    assert torch.allclose(made[..., inner, inner], up[..., inner, inner], atol=1e-5)


@pytest.mark.parametrize("spec", EVERY)
def test_one_caption_means_the_same_caption_for_every_frame(spec):
    unet = random_unet(spec)
    z, logsnr, cond = inputs(spec)
    repeated = replace(
        cond, text=cond.text.expand(-1, 3, -1, -1), text_mask=cond.text_mask.expand(-1, 3, -1)
    )
    assert torch.allclose(unet(z, logsnr, cond), unet(z, logsnr, repeated), atol=2e-5)


@pytest.mark.parametrize("spec", EVERY)
def test_text_matters_and_dropping_it_leaves_nothing_of_it(spec):
    unet = random_unet(spec)
    z, logsnr, cond = inputs(spec)
    other = replace(cond, text=cond.text.flip(-1))
    assert not torch.allclose(unet(z, logsnr, cond), unet(z, logsnr, other))
    assert torch.equal(unet(z, logsnr, cond.without_text()), unet(z, logsnr, other.without_text()))


@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize("spec", EVERY)
def test_any_frame_count_and_larger_sizes(spec, frames):
    unet = random_unet(spec)
    z, logsnr, cond = inputs(spec, frames=frames, scale=2, is_video=frames > 1)
    assert unet(z, logsnr, cond).shape == z.shape


def test_illegal_size_names_the_nearest_legal_one():
    spec = TINY[2]
    _, logsnr, cond = inputs(spec)
    with pytest.raises(ValueError, match="multiples of 4, such as 16x8"):
        build_unet(spec)(torch.randn(1, 3, 3, 17, 9), logsnr, cond)


def test_wrong_conditioning_is_refused():
    z, logsnr, cond = inputs(TINY[2])
    with pytest.raises(ValueError, match="needs a low-resolution video"):
        build_unet(TINY[2])(z, logsnr, replace(cond, lowres=None))
    with pytest.raises(ValueError, match="got 2 captions for 3 frames"):
        text, mask = cond.text.expand(-1, 2, -1, -1), cond.text_mask.expand(-1, 2, -1)
        build_unet(TINY[2])(z, logsnr, replace(cond, text=text, text_mask=mask))


def test_attention_is_where_the_paper_has_it():
    """Temporal attention in the base alone, none at all in the last stage (defect D16)."""
    for cascade in (presets.mini(), presets.paper(), presets.tiny()):
        for spec in cascade.stages:
            modules = [type(m).__name__ for m in build_unet(spec, device="meta").modules()]
            assert ("TemporalAttention" in modules) == (spec.kind == "base")
            assert ("TemporalConv" in modules) == (spec.kind != "base")
            if spec.name in ("tsr2", "tsr3", "ssr3"):
                assert spec.unet.attention_levels == ()
        assert "TextAttention" not in modules


@pytest.mark.parametrize("spec", [TINY[4], TINY[6], MINI[6]])
def test_layer_norm_stages_see_a_crop_as_the_whole(spec):
    """Inside, away from borders, a crop gives what the whole frame gives."""
    unet = random_unet(spec)
    step, scale = spec.unet.multiple, 21
    z, logsnr, cond = inputs(spec, frames=1, scale=scale)
    whole = unet(z, logsnr, cond)
    first, last = step, step * (scale - 1)
    low = slice(first // spec.space_factor, last // spec.space_factor)
    crop = unet(
        z[..., first:last, first:last],
        logsnr,
        replace(cond, lowres=cond.lowres[..., low, low]),
    )
    inner = slice(step * 9, step * 10)
    middle = slice(inner.start + first, inner.stop + first)
    assert torch.allclose(crop[..., inner, inner], whole[..., middle, middle], atol=2e-5)


@pytest.mark.parametrize("size", [(12, 20), (32, 40)], ids=["slow in bfloat16", "fast"])
def test_group_norm_in_bfloat16_is_that_of_float32_rounded(size):
    generator = torch.Generator().manual_seed(0)
    norm = make_norm("group", 96).to(torch.bfloat16)
    assert isinstance(norm, GroupNorm)
    with torch.no_grad():
        norm.weight.normal_(generator=generator)
        norm.bias.normal_(generator=generator)
    x = 3 + 2 * torch.randn(4, 96, *size, generator=generator)
    x = x.to(torch.bfloat16, memory_format=torch.channels_last).requires_grad_()
    told = torch.randn(x.shape, generator=generator).to(torch.bfloat16)
    ours = norm(x)
    assert ours.dtype == torch.bfloat16
    assert ours.is_contiguous(memory_format=torch.channels_last)
    exact = x.detach().float().requires_grad_()
    parts = norm.num_groups, norm.weight.float(), norm.bias.float()
    theirs = torch.nn.functional.group_norm(exact, *parts)
    torch.testing.assert_close(ours.float(), theirs, rtol=2**-8, atol=1e-3)
    (of_ours,) = torch.autograd.grad(ours, x, told)
    (of_theirs,) = torch.autograd.grad(theirs, exact, told.float())
    torch.testing.assert_close(of_ours.float(), of_theirs, rtol=2**-7, atol=1e-2)


def test_a_long_video_never_runs_back_in_time():
    place = PlaceAndTime(8)
    with torch.no_grad():
        seen = place((2, 3), torch.arange(40), torch.tensor([True])).flatten(1)
    steps = (seen[1:] - seen[:-1]).abs().amax(1)
    assert (steps[: PlaceAndTime.FRAMES] > 0).all()
    assert (steps[PlaceAndTime.FRAMES :] == 0).all()
    assert (seen[1:] - seen[0]).norm(dim=1).diff().min() >= 0


@pytest.mark.parametrize("stage", [TINY[0], TINY[2], MINI[0], MINI[4]], ids=lambda s: s.name)
def test_a_weight_multiplies_what_a_side_network_answers(stage):
    spec = replace(stage, unet=replace(stage.unet, guided=(0.0, 9.0), side=16))
    unet, (z, logsnr, cond) = random_unet(spec), inputs(spec, clips=2)
    plain = build_unet(stage)
    plain.load_state_dict({n: w for n, w in unet.state_dict().items() if n[:5] != "side."})

    def answer(*weights: float) -> torch.Tensor:
        return unet(z, logsnr, replace(cond, guidance=torch.tensor(weights)))

    with torch.no_grad():
        none, once = unet(z, logsnr, cond), answer(1.0, 1.0)
        torch.testing.assert_close(none, plain(z, logsnr, cond))
        assert torch.equal(answer(0.0, 0.0), none)
        assert (once - none).abs().max() > 1e-2
        wanted = torch.stack([none[0], none[1] + 4 * (once - none)[1]])
        torch.testing.assert_close(answer(0.0, 4.0), wanted, atol=1e-4, rtol=1e-4)


def test_a_side_network_is_of_guidance():
    for side, told in (
        (8, "multiplied by a weight of guidance"),
        (12, "a multiple of 8 above 0, got 12"),
    ):
        with pytest.raises(ValueError, match=told):
            replace(TINY[0].unet, side=side)
