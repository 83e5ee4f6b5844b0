import math
import weakref
from collections.abc import Callable

import pytest
import torch
from exact import answering, clips, gaussian, levels, sample, two_points

from imagen_video.diffusion.denoised import Denoised, Denoiser
from imagen_video.diffusion.sampler import (
    Levels,
    Move,
    Noise,
    ancestral,
    ddim,
    denoise_steps,
    dpmpp_2m,
    stochastic,
)
from imagen_video.diffusion.schedule import CosineSchedule, alpha_sigma, step_times
from imagen_video.video import PerClip, Video

MEAN, STD = 0.3, 0.5
MOVES = {
    "ddim": ddim,
    "ancestral 0": ancestral(0.0),
    "ancestral 0.3": ancestral(0.3),
    "ancestral 1": ancestral(1.0),
    "stochastic": stochastic,
    "dpmpp_2m": dpmpp_2m,
}
SCHEDULES = [CosineSchedule(), CosineSchedule(shift=-3.0)]


def grid(schedule: CosineSchedule, num_steps: int) -> list[float]:
    return schedule(step_times(num_steps)).tolist()


def parts(logsnr: float) -> tuple[float, float]:
    """alpha and sigma, by another route than the package's."""
    angle = math.atan(math.exp(-logsnr / 2))
    return math.cos(angle), math.sin(angle)


def gain(logsnr: float) -> float:
    """How far the Gaussian's x moves with z: x - mean = gain (z - alpha mean)."""
    alpha, sigma = parts(logsnr)
    return alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)


def law(num_steps: int, schedule: CosineSchedule, move: Move) -> tuple[float, float]:
    """The exact mean and standard deviation of a sampler's result on Gaussian data.

    The result is affine in the noises, so clip i answers to noise i alone and the last to none.
    """
    alone = torch.eye(num_steps + 1, dtype=torch.float64)
    denoisers = [gaussian(MEAN, STD)] * num_steps
    x = sample(denoisers, schedule, lambda step: clips(alone[step]), move).flatten()
    return float(x[-1]), float((x[:-1] - x[-1]).norm())


def by_hand(num_steps: int, schedule: CosineSchedule, name: str) -> tuple[float, float]:
    """The same law from the scalar formulas of the paper: deviation and variance, step by step."""
    at = grid(schedule, num_steps)
    deviation, variance = -parts(at[0])[0] * MEAN, 1.0
    for i in range(num_steps - 1):
        t, s, k = at[i], at[i + 1], at[i + 2]
        (alpha_t, sigma_t), (alpha_s, sigma_s), (alpha_k, sigma_k) = map(parts, (t, s, k))
        if name == "ddim":
            ratio = sigma_s / sigma_t
            factor, noise = alpha_s * gain(t) + ratio * (1 - alpha_t * gain(t)), 0.0
        elif name == "stochastic":
            ratio = sigma_k / sigma_t
            jump = alpha_k * gain(t) + ratio * (1 - alpha_t * gain(t))
            factor, noise = alpha_s / alpha_k * jump, (1 - math.exp(s - k)) * sigma_s**2
        else:
            gamma, fresh = float(name.split()[1]), 1 - math.exp(t - s)
            factor = math.exp(t - s) * alpha_s / alpha_t + fresh * alpha_s * gain(t)
            noise = (fresh * sigma_s**2) ** (1 - gamma) * (fresh * sigma_t**2) ** gamma
        deviation, variance = factor * deviation, factor**2 * variance + noise
    end = gain(at[num_steps - 1])
    return MEAN + end * deviation, end * math.sqrt(variance)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", [name for name in MOVES if name != "dpmpp_2m"])
@pytest.mark.parametrize("num_steps", [1, 2, 8, 37])
def test_every_move_is_the_analytic_product(name: str, num_steps: int, schedule: CosineSchedule):
    mean, std = law(num_steps, schedule, MOVES[name])
    expected_mean, expected_std = by_hand(num_steps, schedule, name)
    assert abs(mean - expected_mean) < 1e-10
    assert abs(std - expected_std) < 1e-10


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("num_steps", [1, 2, 3, 16])
def test_dpmpp_2m_is_its_textbook_recursion(num_steps: int, schedule: CosineSchedule):
    at = grid(schedule, num_steps)
    z, before = 1.7, None
    for i in range(num_steps - 1):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = parts(at[i]), parts(at[i + 1])
        x = MEAN + gain(at[i]) * (z - alpha_t * MEAN)
        h, extrapolated = (at[i + 1] - at[i]) / 2, x
        if before is not None:
            r = (at[i] - at[i - 1]) / 2 / h
            extrapolated = (1 + 1 / (2 * r)) * x - before / (2 * r)
        z, before = sigma_s / sigma_t * z + alpha_s * (1 - math.exp(-h)) * extrapolated, x
    alpha, _ = parts(at[num_steps - 1])
    expected = MEAN + gain(at[num_steps - 1]) * (z - alpha * MEAN)
    got = sample([gaussian(MEAN, STD)] * num_steps, schedule, lambda _: clips([1.7]), dpmpp_2m)
    assert abs(float(got) - expected) < 1e-10


def flow(z: Video, start: float, end: float) -> Video:
    """The exact probability flow, which on Gaussian data keeps the quantile of z for ever."""

    def spread(logsnr: float) -> float:
        alpha, sigma = parts(logsnr)
        return math.hypot(alpha * STD, sigma)

    quantile = (z - parts(start)[0] * MEAN) / spread(start)
    return parts(end)[0] * MEAN + spread(end) * quantile


@pytest.mark.parametrize("shift", [0.0, -1.0])
@pytest.mark.parametrize(("move", "order"), [(ddim, 1), (dpmpp_2m, 2)])
def test_order_of_convergence(move: Move, order: int, shift: float):
    """At the last z. The range is narrow, as the order is one in log-SNR steps that shrink."""
    schedule = CosineSchedule(logsnr_min=-4.0, logsnr_max=4.0, shift=shift)
    start = clips([-1.3, 0.4, 2.2])

    def error(num_steps: int) -> float:
        denoisers = [gaussian(MEAN, STD)] * num_steps
        for state in denoise_steps(denoisers, schedule, lambda _: start, move=move):
            z = state.z
        return float((z - flow(start, -4, grid(schedule, num_steps)[-2])).abs().max())

    assert abs(math.log2(error(256) / error(512)) - order) < 0.1


def test_order_over_the_whole_range_of_noise():
    """At both ends the log-SNR steps of uniform times never shrink: second order but for a log."""
    start = clips([-1.3, 0.4, 2.2])

    def error(move: Move, num_steps: int) -> float:
        denoisers = [gaussian(MEAN, STD)] * num_steps
        x = sample(denoisers, CosineSchedule(), lambda _: start, move)
        return float((x - flow(start, -20, 60)).abs().max())

    assert abs(math.log2(error(ddim, 128) / error(ddim, 256)) - 1) < 0.05
    assert math.log2(error(dpmpp_2m, 256) / error(dpmpp_2m, 512)) > 1.7
    assert error(dpmpp_2m, 64) < error(ddim, 256)


@pytest.mark.parametrize("name", MOVES)
def test_many_steps_keep_mean_and_std(name: str):
    errors = []
    for num_steps in (64, 256):
        mean, std = law(num_steps, CosineSchedule(), MOVES[name])
        assert abs(mean - MEAN) < 1e-4
        errors.append(abs(std - STD))
    assert errors[1] < min(0.4 * errors[0], 0.02)


@pytest.mark.parametrize("share", [0.5, 0.3])
def test_two_points_are_hit_in_the_right_shares_along_the_flow(share: float):
    """The flow is monotone, so the upper `share` of the normal's quantiles must end at +1."""
    quantiles = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    z = torch.special.ndtri(quantiles)
    for move, num_steps in ((ddim, 256), (dpmpp_2m, 64)):
        x = sample([two_points(share)] * num_steps, CosineSchedule(), lambda _: clips(z), move)
        assert ((x.abs() - 1).abs() < 1e-3).float().mean() > 0.99
        assert abs(float((x > 0).float().mean()) - share) < 0.005


@pytest.mark.parametrize("name", ["ancestral 0.3", "stochastic"])
def test_two_points_are_hit_in_the_right_shares_at_random(name: str):
    noise = Noise(seed=7)

    def draw(step: int) -> Video:
        return noise((1, 1, 1, 50, 200), stage="points", step=step).double()

    x = sample([two_points(0.3)] * 128, CosineSchedule(), draw, MOVES[name])
    assert ((x.abs() - 1).abs() < 1e-3).float().mean() > 0.99
    assert abs(float((x > 0).float().mean()) - 0.3) < 0.02  # four standard deviations of 10,000


T, S, K = (CosineSchedule()(torch.tensor([u], dtype=torch.float64)) for u in (0.8, 0.6, 0.4))
AROUND = Levels(T, S, K, same_denoiser=True)


def after(move: Move, z: float, x: float, noise: float) -> float:
    """z_s of a move from z_t with x known: a move may use up what it is given."""
    now = Denoised.from_x(clips([z]), clips([x]), T)
    return float(move(now, None, AROUND, lambda: clips([noise])))


def test_posterior_is_bayes_rule():
    """q(z_s | z_t, x): the prior N(alpha_s x, sigma_s^2) times the likelihood of z_t given z_s."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = parts(float(T)), parts(float(S))
    z_t, x = 0.9, -0.4
    step, step_variance = alpha_t / alpha_s, sigma_t**2 - (alpha_t / alpha_s * sigma_s) ** 2
    variance = 1 / (1 / sigma_s**2 + step**2 / step_variance)
    mean = variance * (alpha_s * x / sigma_s**2 + step * z_t / step_variance)

    quiet, loud = (after(ancestral(0.0), z_t, x, noise) for noise in (0.0, 1.0))
    assert abs(quiet - mean) < 1e-12
    assert abs((loud - quiet) ** 2 - variance) < 1e-12


def test_forward_variance_bound_is_the_forward_step():
    (alpha_t, sigma_t), (alpha_s, sigma_s) = parts(float(T)), parts(float(S))
    quiet, loud = (after(ancestral(1.0), 0.9, -0.4, noise) for noise in (0.0, 1.0))
    forward = (loud - quiet) ** 2
    assert abs((alpha_t / alpha_s) ** 2 * sigma_s**2 + forward - sigma_t**2) < 1e-12


def test_stochastic_renoises_to_the_level_of_s():
    """z_k has mean alpha_k x and variance sigma_k^2; the step back must give those of s."""
    (alpha_s, sigma_s), (alpha_k, sigma_k) = parts(float(S)), parts(float(K))
    answer = answering(lambda z, alpha, sigma: torch.full_like(z, 0.7))

    def z_s(eps: float, noise: float) -> float:
        alpha, sigma = parts(float(T))
        now = answer(clips([alpha * 0.7 + sigma * eps]), T)
        return float(stochastic(now, None, AROUND, lambda: clips([noise])))

    still = z_s(0, 0)
    assert abs(still - alpha_s * 0.7) < 1e-12
    kept, fresh = z_s(1, 0) - still, z_s(0, 1) - still
    assert abs(kept - alpha_s / alpha_k * sigma_k) < 1e-12
    assert abs(kept**2 + fresh**2 - sigma_s**2) < 1e-12


def test_dpmpp_2m_is_first_order_where_the_denoiser_changes():
    one, other = gaussian(MEAN, STD), gaussian(-MEAN, STD)
    start = clips([-1.0, 0.5])
    for denoisers, same in (([one, other] * 4, True), ([one] * 8, False)):
        second, first = (
            sample(denoisers, CosineSchedule(), lambda _: start, move) for move in (dpmpp_2m, ddim)
        )
        assert torch.equal(second, first) == same


def test_gamma_outside_0_1_is_refused():
    with pytest.raises(ValueError, match=r"gamma is 1\.5"):
        ancestral(1.5)


def test_states_tell_the_run_and_expire():
    states = denoise_steps(
        [gaussian(MEAN, STD)] * 3, CosineSchedule(), lambda _: clips([0.2]), move=ddim
    )
    first = next(states)
    assert (first.step, first.num_steps) == (0, 3)
    assert torch.equal(first.z, clips([0.2]))
    assert torch.equal(first.x, gaussian(MEAN, STD)(clips([0.2]), levels(1, -20.0)).x)
    second = next(states)
    with pytest.raises(ValueError, match="step 0 is over"):
        _ = first.x
    last = next(states)
    assert last.x.shape == (1, 1, 1, 1, 1)
    assert (second.step, last.step, list(states)) == (1, 2, [])
    with pytest.raises(ValueError, match="step 2 is over"):
        _ = last.x


@pytest.mark.parametrize(("name", "kept"), [("ddim", 0), ("stochastic", 0), ("dpmpp_2m", 1)])
def test_while_the_network_runs_only_z_and_what_the_move_needs_is_alive(name: str, kept: int):
    answers: list[Callable[[], Denoised | None]] = []
    alive: list[int] = []

    def watched(z: Video, logsnr: PerClip) -> Denoised:
        alive.append(sum(answer() is not None for answer in answers))
        now = gaussian(MEAN, STD)(z, logsnr)
        answers.append(weakref.ref(now))
        return now

    denoisers: list[Denoiser] = [watched] * 4
    for state in denoise_steps(denoisers, CosineSchedule(), lambda _: clips([1]), move=MOVES[name]):
        assert state.x.isfinite().all()
    assert alive == [0, kept, kept, kept]


def test_float32_follows_float64():
    start = Noise(seed=3)((2, 2, 3, 4, 5), stage="base", step=0)
    for move in (ddim, dpmpp_2m):
        narrow, wide = (
            sample([gaussian(MEAN, STD)] * 32, CosineSchedule(), lambda _, z=z: z, move)
            for z in (start, start.double())
        )
        assert narrow.dtype == torch.float32
        assert (narrow - wide).abs().max() < 2e-5


def test_alpha_sigma_agree_with_the_angles_used_here():
    logsnr = torch.tensor([-20.0, -3.0, 0.0, 8.0, 20.0], dtype=torch.float64)
    for value, alpha, sigma in zip(logsnr.tolist(), *alpha_sigma(logsnr), strict=True):
        assert abs(parts(value)[0] - alpha) < 1e-14
        assert abs(parts(value)[1] - sigma) < 1e-14
