import time

import pytest
import torch
from exact import answering, clips, gaussian, levels

from imagen_video.diffusion.denoised import Denoised
from imagen_video.diffusion.guidance import (
    dynamic_threshold,
    guidance_weights,
    guided,
    guided_denoisers,
    quantile,
    static_threshold,
    thresholded,
)
from imagen_video.diffusion.schedule import CosineSchedule, alpha_sigma, expand, step_times
from imagen_video.spec import GuidanceSpec
from imagen_video.video import PerClip, Video

COND, UNCOND = gaussian(0.4, 0.3), gaussian(-0.2, 0.6)


def both(z: Video, logsnr: PerClip) -> Denoised:
    """The doubled network: its first half is conditional, its second is not."""
    half = len(z) // 2
    cond, uncond = COND(z[:half], logsnr[:half]), UNCOND(z[half:], logsnr[half:])
    return Denoised(z, torch.cat([cond.v, uncond.v]), logsnr)


Z, LOGSNR = clips([-1.2, 0.3, 2.0]), torch.tensor([-6, 0.5, 9], dtype=torch.float64)


def random_video(seed: int, *shape: int) -> Video:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator)


@pytest.mark.parametrize("weight", [0.5, 6.0, 15.0])
def test_guidance_is_the_same_in_x_eps_and_v(weight: float):
    answer, cond, uncond = guided(both, weight)(Z, LOGSNR), COND(Z, LOGSNR), UNCOND(Z, LOGSNR)
    for name in ("x", "eps", "v"):
        expected = (1 + weight) * getattr(cond, name) - weight * getattr(uncond, name)
        assert (getattr(answer, name) - expected).abs().max() < 1e-12
    assert torch.equal(answer.z, Z)


def test_weight_0_is_off():
    assert torch.equal(guided(both, 0.0)(Z, LOGSNR).v, COND(Z, LOGSNR).v)


def test_one_doubled_call_a_step():
    sizes = []

    def counted(z: Video, logsnr: PerClip) -> Denoised:
        sizes.append(len(z))
        return both(z, logsnr)

    guided(counted, 3.0)(Z, LOGSNR)
    assert sizes == [6]


def test_steps_of_equal_weight_share_a_denoiser_and_weight_0_is_the_plain_one():
    denoisers = guided_denoisers(COND, both, [15.0, 15.0, 1.0, 15.0, 0.0], rule=static_threshold)
    assert denoisers[0] is denoisers[1] is denoisers[3]
    assert denoisers[2] is not denoisers[0]
    assert denoisers[4] is COND
    expected = guided(both, 15.0)(Z, LOGSNR).x.clamp(-1, 1)
    assert (denoisers[0](Z, LOGSNR).x - expected).abs().max() < 1e-12


def test_weights_over_the_steps():
    schedule = CosineSchedule()

    def weights(num_steps: int, **spec) -> list[float]:
        return guidance_weights(GuidanceSpec(**spec), num_steps, schedule)

    assert weights(3, weight=6.0) == [6, 6, 6]
    assert weights(6, weight=15.0, low=1.0, constant_steps=2) == [15, 15, 1, 15, 1, 15]
    assert weights(3, weight=15.0, low=1.0) == [1, 15, 1]
    assert weights(3, weight=15.0, low=1.0, constant_steps=9) == [15, 15, 15]


def test_interval_is_one_of_log_snr():
    schedule = CosineSchedule(shift=-2.0)
    weights = guidance_weights(GuidanceSpec(weight=4.0, interval=(-5.0, 3.0)), 64, schedule)
    for weight, logsnr in zip(weights, schedule(step_times(64)), strict=False):
        assert weight == (4 if -5 <= logsnr <= 3 else 0)
    everywhere = GuidanceSpec(weight=4.0, interval=(-20.0, 20.0))
    assert guidance_weights(everywhere, 3, CosineSchedule()) == [4, 4, 4]


def test_thresholded_moves_eps_and_v_with_x():
    wide = answering(lambda z, alpha, sigma: 1.5 * z)
    answer = thresholded(wide, static_threshold)(Z, LOGSNR)
    alpha, sigma = (expand(part, Z) for part in alpha_sigma(LOGSNR))
    clipped = (1.5 * Z).clamp(-1, 1)
    assert (answer.x - clipped).abs().max() < 1e-12
    assert (answer.eps - (Z - alpha * clipped) / sigma).abs().max() < 1e-10


def test_dynamic_threshold_leaves_what_is_in_range():
    rule = dynamic_threshold(0.995)
    x = random_video(0, 2, 3, 3, 8, 8).clamp(-1, 1)
    assert torch.equal(rule(x), x)
    once = rule(3 * x)
    assert once.abs().max() <= 1
    assert torch.equal(rule(once), once)


def test_dynamic_threshold_is_the_formula_and_one_clip_does_not_see_another():
    rule, x = dynamic_threshold(0.9), 2 * random_video(1, 3, 2, 3, 8, 8)
    x[2] *= 10
    for clip, got in zip(x, rule(x), strict=True):
        limit = torch.quantile(clip.abs().flatten(), 0.9)
        assert torch.allclose(got, clip.clamp(-limit, limit) / limit)
        assert torch.equal(rule(clip[None])[0], got)


def test_dynamic_threshold_keeps_every_frame_at_one_brightness():
    x = torch.ones(1, 4, 3, 8, 8)
    x[0, 3] = 4
    levels_of_frames = dynamic_threshold(1.0)(x).mean(dim=(0, 2, 3, 4))
    assert levels_of_frames.tolist() == [0.25, 0.25, 0.25, 1]


def test_percentile_is_a_fraction():
    with pytest.raises(ValueError, match=r"fraction in \(0, 1\]"):
        dynamic_threshold(99.5)


@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.9, 0.995, 0.99999, 1.0])
def test_quantile_is_torchs(fraction: float):
    values = random_video(2, 1_000_000)
    assert torch.allclose(quantile(values, fraction), torch.quantile(values, fraction), atol=1e-6)
    few = torch.tensor([3.0, 1.0, 2.0], dtype=torch.float64)
    assert torch.allclose(quantile(few, fraction), torch.quantile(few, fraction))


def test_twenty_million_elements():
    x = random_video(3, 1, 20, 1, 1000, 1000)
    with pytest.raises(RuntimeError, match="too large"):
        torch.quantile(x.flatten(), 0.995)
    start = time.monotonic()
    got = dynamic_threshold(0.995)(x)
    assert time.monotonic() - start < 30
    limit = 2.8070  # of the normal distribution, two-sided
    share = float((got.abs() == 1).float().mean())
    assert abs(share - 0.005) < 1e-5
    assert abs(float(x[got.abs() < 1].abs().max()) - limit) < 0.01


def test_guidance_and_thresholds_in_float32():
    z = random_video(4, 2, 2, 3, 4, 4)
    denoise = thresholded(guided(both, 15.0), dynamic_threshold(0.995))
    answer = denoise(z, levels(2, 20.0).float())
    assert answer.v.isfinite().all()
    assert answer.x.dtype == torch.float32
    assert answer.x.abs().max() <= 1 + 1e-5
