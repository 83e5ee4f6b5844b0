import math

import pytest
import torch
from scipy.linalg import sqrtm
from torchmetrics.image.fid import FrechetInceptionDistance

from imagen_video.metrics.frechet import (
    Estimate,
    Moments,
    Target,
    estimated,
    extrapolated,
    frechet_distance,
)


def drawn(count: int, seed: int, d: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=torch.Generator().manual_seed(seed % 2))
    rows = torch.randn(count, d, generator=generator, dtype=torch.float64)
    return (rows @ mix.double() + seed % 2).float()


def half_width(found: Estimate) -> float:
    assert found.low is not None and found.high is not None
    assert found.low < found.value < found.high
    return found.high - found.value


def gaussian(mean: torch.Tensor, covariance: torch.Tensor) -> Moments:
    return Moments(1001, mean.double(), covariance.double() * 1000)


def test_distance_of_two_gaussians_in_closed_form():
    # Covariances that commute: the distance is that of the means and of the standard deviations.
    turn = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    a, b = torch.rand(2, 6, dtype=torch.float64) * 3
    means = torch.randn(2, 6, dtype=torch.float64)
    found = frechet_distance(
        gaussian(means[0], turn @ a.square().diag() @ turn.T),
        gaussian(means[1], turn @ b.square().diag() @ turn.T),
    )
    exact = (means[0] - means[1]).square().sum() + (a - b).square().sum()
    assert found == pytest.approx(exact.item(), rel=1e-10)


def test_distance_of_covariances_that_do_not_commute():
    a, b = (Moments.of(drawn(200, seed)) for seed in (0, 1))
    root = sqrtm((a.covariance @ b.covariance).numpy()).real
    exact = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace()
    assert frechet_distance(a, b) == pytest.approx(exact.item() - 2 * root.trace(), rel=1e-8)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), rel=1e-10)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


class Given(torch.nn.Module):
    """An extractor whose features are given as images of one pixel column."""

    num_features = 12

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_distance_equals_a_librarys():
    library = FrechetInceptionDistance(Given(), normalize=True, input_img_size=(3, 2, 2))
    library.set_dtype(torch.float64)
    real, fake = drawn(300, 0), drawn(250, 1)
    for rows, is_real in ((real, True), (fake, False)):
        library.update(rows.double().view(-1, 3, 2, 2), real=is_real)
    exact = library.compute().item()
    ours = frechet_distance(Moments.of(fake), Moments.of(real))
    assert ours == pytest.approx(exact, abs=1e-3)


@pytest.mark.parametrize("parts", [1, 7, 50])
def test_moments_do_not_depend_on_batches_or_their_order(parts):
    rows = drawn(100, 0) + 1000  # a mean far from 0 costs sums of squares their digits
    whole = Moments.of(rows)
    batches = [Moments.of(part) for part in rows.chunk(parts)]
    first, *others = batches[::-1]
    for batch in others:
        first = first + batch
    assert first.count == 100
    torch.testing.assert_close(first.mean, whole.mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(first.scatter, whole.scatter, rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize("count", [5, 12, 40])
def test_few_samples_go_through_their_gram_matrix(count):
    target, rows = Target(Moments.of(drawn(100, 0))), drawn(count, 1)
    moments = Moments.of(rows)
    exact = target.distance(moments.mean, moments.covariance)
    assert target.of(rows) == pytest.approx(exact, rel=1e-6)


def test_extrapolation_takes_away_what_few_samples_add():
    target = Target(Moments.of(drawn(200_000, 0)))
    plain, endless = [], []
    for seed in range(2, 22, 2):  # even seeds: the same distribution, so the truth is 0
        videos = drawn(64, seed)[:, None]
        plain.append(target.of(videos[:, 0]))
        endless.append(extrapolated(target, videos, seed))
    assert sum(plain) / 10 > 2
    assert abs(sum(endless) / 10) < 0.35 * sum(plain) / 10


@pytest.mark.parametrize(("videos", "d"), [(128, 12), (16, 32)], ids=["many", "few"])
def test_the_interval_is_as_wide_as_other_draws_are_apart(videos, d):
    """Few videos of many numbers too, where drawing with putting back is three times too wide."""
    target = Target(Moments.of(drawn(50_000, 0, d)))
    others = [target.of(drawn(videos, seed, d)) for seed in range(1, 81, 2)]
    spread = 1.96 * torch.tensor(others).std().item()
    found = [estimated(target, drawn(videos, seed, d)[:, None], 0) for seed in range(101, 111, 2)]
    wide = sum(map(half_width, found)) / len(found)
    assert 0.75 * spread < wide < 1.5 * spread


def test_two_videos_of_one_vector_have_no_interval():
    found = estimated(Target(Moments.of(drawn(100, 0))), drawn(2, 1)[:, None], 0)
    assert found.low is None and found.high is None and found.value > 0


def test_frames_of_a_video_are_drawn_together():
    target = Target(Moments.of(drawn(1000, 0)))
    once = drawn(64, 1)[:, None]
    copies = once.expand(-1, 8, -1).contiguous()  # eight equal frames say no more than one
    narrow, wide = estimated(target, once, seed=0), estimated(target, copies, seed=0)
    assert half_width(wide) == pytest.approx(half_width(narrow), rel=0.1)


def test_too_few_samples_are_named():
    with pytest.raises(ValueError, match="at least one sample"):
        Moments.of(torch.zeros(0, 3))
    with pytest.raises(ValueError, match="two samples or more, got 1"):
        frechet_distance(Moments.of(torch.zeros(1, 3)), Moments.of(drawn(9, 0, 3)))
    with pytest.raises(ValueError, match="16 videos or more, got 4"):
        extrapolated(Target(Moments.of(drawn(50, 0))), drawn(4, 1)[:, None], 0)
    with pytest.warns(UserWarning, match="take more reference clips"):
        Target(Moments.of(drawn(12, 0)))


def test_features_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="3 and 4 numbers"):
        Moments.of(torch.zeros(2, 3)) + Moments.of(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="not finite"):
        Moments.of(torch.tensor([[math.nan]]))
