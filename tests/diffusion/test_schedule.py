import math

import pytest
import torch

from imagen_video.diffusion.schedule import CosineSchedule, alpha_sigma, expand, step_times

SHIFTS = (0.0, -5.0, 3.0)
TIMES = torch.linspace(0, 1, 1025, dtype=torch.float64)


@pytest.mark.parametrize("shift", SHIFTS)
def test_inverse_round_trips(shift: float):
    schedule = CosineSchedule(shift=shift)
    assert (schedule.inverse(schedule(TIMES)) - TIMES).abs().max() < 1e-13
    logsnr = torch.linspace(-20, 20, 1001, dtype=torch.float64)
    assert (schedule(schedule.inverse(logsnr)) - logsnr).abs().max() < 1e-9


@pytest.mark.parametrize("shift", SHIFTS)
def test_ends_are_the_range_whatever_the_shift(shift: float):
    ends = CosineSchedule(logsnr_min=-18.0, logsnr_max=15.0, shift=shift)(TIMES[[0, -1]])
    assert (ends - torch.tensor([15.0, -18.0], dtype=torch.float64)).abs().max() < 1e-12


def test_alpha_and_sigma_are_the_cosine_and_sine_of_the_time():
    low, high = math.atan(math.exp(-10)), math.atan(math.exp(10))
    alpha, sigma = alpha_sigma(CosineSchedule()(TIMES))
    angle = low + (high - low) * TIMES
    assert (alpha - angle.cos()).abs().max() < 1e-14
    assert (sigma - angle.sin()).abs().max() < 1e-14
    assert (alpha**2 + sigma**2 - 1).abs().max() < 1e-14


def test_shift_moves_the_middle():
    moved = CosineSchedule(shift=-5.0)(TIMES)
    plain = CosineSchedule(logsnr_min=-15.0, logsnr_max=25.0)(TIMES)
    assert torch.equal(moved, plain - 5)
    assert abs(float(moved[512]) + 5) < 1e-2


@pytest.mark.parametrize("shift", SHIFTS)
def test_slope_is_the_derivative(shift: float):
    t = TIMES.clone().requires_grad_()
    schedule = CosineSchedule(shift=shift)
    (slope,) = torch.autograd.grad(schedule(t).sum(), t)
    assert (schedule.slope(TIMES) / slope - 1).abs().max() < 1e-12


@pytest.mark.parametrize("shift", SHIFTS)
def test_float32_keeps_six_digits_up_to_both_ends(shift: float):
    schedule = CosineSchedule(shift=shift)
    single = schedule(TIMES.float())
    assert single.dtype == torch.float32
    assert (single - schedule(TIMES)).abs().max() < 2e-5


def test_half_types_are_computed_in_float32():
    assert CosineSchedule()(TIMES.bfloat16()).dtype == torch.float32


def test_any_shape():
    schedule = CosineSchedule()
    assert torch.equal(schedule(TIMES[:12].reshape(3, 4)), schedule(TIMES[:12]).reshape(3, 4))
    assert schedule(TIMES[3]).shape == ()


def test_expand_takes_the_dtype_of_the_video():
    video = torch.zeros(2, 1, 1, 1, 3)
    wide = torch.tensor([2.0, 3.0], dtype=torch.float64)
    assert (video + expand(wide, video)).dtype == torch.float32


def test_step_times_are_uniform_from_1_to_0():
    assert step_times(4).tolist() == [1, 0.75, 0.5, 0.25, 0]
    with pytest.raises(ValueError, match="at least 1"):
        step_times(0)


def test_empty_range_is_refused():
    with pytest.raises(ValueError, match="below logsnr_max"):
        CosineSchedule(logsnr_min=3.0, logsnr_max=-3.0)
