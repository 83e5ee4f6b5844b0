import math

import pytest
import scipy.stats
import torch

from imagen_video.metrics.measures import blend, percent, psnr, squared_error, student, wilson


def test_psnr_of_a_constant_difference():
    truth = torch.full((20, 3, 4, 6), 100, dtype=torch.uint8)
    for step in (1, 7, 100):
        assert psnr(truth + step, truth) == pytest.approx(20 * math.log10(255 / step))
        assert psnr(truth - step, truth) == psnr(truth + step, truth)
    assert psnr(truth, truth) == math.inf


def test_squared_error_is_the_mean_over_all_frames():
    a, b = torch.randint(0, 256, (2, 19, 3, 5, 4), dtype=torch.uint8)
    assert squared_error(a, b) == pytest.approx((a.double() - b.double()).square().mean().item())


@pytest.mark.parametrize("factor", [2, 4])
def test_blend_of_even_motion_is_exact(factor):
    ramp = (torch.arange(5 * factor) * 4).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    known = ramp[::factor]
    blended = blend(known, factor)
    assert torch.equal(blended[: 4 * factor + 1], ramp[: 4 * factor + 1])
    assert torch.equal(blended[4 * factor :], known[-1:].expand(factor, -1, -1, -1))


def test_blend_keeps_the_known_frames():
    known = torch.randint(0, 256, (6, 3, 4, 4), dtype=torch.uint8)
    assert torch.equal(blend(known, 2)[::2], known)


def test_wilson_solves_its_equation():
    """The bounds p are where |share - p| is 1.96 standard errors of p itself."""
    for right, of in ((1, 10), (50, 64), (63, 64), (950, 1000)):
        for p in wilson(right, of):
            assert abs(right / of - p) == pytest.approx(1.959964 * math.sqrt(p * (1 - p) / of))
    assert wilson(0, 10)[0] == 0
    assert wilson(10, 10)[1] == pytest.approx(1)


def test_a_share_of_nothing_is_refused():
    for right, of in ((0, 0), (5, 4), (-1, 4)):
        with pytest.raises(ValueError, match="no share"):
            wilson(right, of)


def test_percent_reads():
    assert percent(50, 100) == "50.0 (40.4-59.6) of 100"


def test_students_interval_is_that_of_a_library():
    for of in (2, 3, 10, 11, 12, 30, 500):
        low, high = student(1.0, 2.0, of)
        t = scipy.stats.t.ppf(0.975, of - 1)
        assert high - 1 == pytest.approx(2 * t / of**0.5, rel=2e-4)
        assert low + high == pytest.approx(2)
