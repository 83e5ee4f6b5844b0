import math
from dataclasses import replace

import pytest
import torch
from exact import gaussian

from imagen_video.diffusion.denoised import Denoised
from imagen_video.diffusion.schedule import CosineSchedule, alpha_sigma, expand

LEVELS = torch.tensor([-20, -9, -1.5, 0, 4, 20], dtype=torch.float64)
LESS_NOISE = LEVELS + torch.tensor([1, 0.25, 3, 9, 16, 2], dtype=torch.float64)


def draw(seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(6, 2, 3, 4, 5, generator=generator, dtype=dtype)


def true_answer(x: torch.Tensor, eps: torch.Tensor) -> Denoised:
    alpha, sigma = (expand(part, x) for part in alpha_sigma(LEVELS))
    return Denoised(alpha * x + sigma * eps, alpha * eps - sigma * x, LEVELS)


def mse(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a - b).square().mean(dim=(1, 2, 3, 4))


def test_x_and_eps_follow_from_v():
    x, eps = draw(0), draw(1)
    answer = true_answer(x, eps)
    assert (answer.x - x).abs().max() < 1e-12
    assert (answer.eps - eps).abs().max() < 1e-12


def test_errors_of_x_eps_and_v_are_one_error():
    x, eps = draw(0), draw(1)
    guess = Denoised(true_answer(x, eps).z, draw(2), LEVELS)
    x_mse, eps_mse = mse(guess.x, x), mse(guess.eps, eps)
    v_mse = mse(guess.v, true_answer(x, eps).v)
    alpha, _ = alpha_sigma(LEVELS)
    inner = slice(
        0, 5
    )  # at log-SNR 20 the error of x is 4.5e-5 of v's: its square keeps fewer digits
    assert torch.allclose(eps_mse, alpha**2 * v_mse, rtol=1e-10)
    assert torch.allclose(eps_mse[inner], (LEVELS.exp() * x_mse)[inner], rtol=1e-10)
    assert torch.allclose(v_mse[inner], ((1 + LEVELS.exp()) * x_mse)[inner], rtol=1e-10)
    assert torch.allclose(v_mse[5], (1 + LEVELS.exp()[5]) * x_mse[5], rtol=1e-7)


def test_at_is_the_ddim_formula():
    answer = Denoised(draw(0), draw(1), LEVELS)
    alpha, sigma = (expand(part, answer.z) for part in alpha_sigma(LESS_NOISE))
    assert (answer.at(LESS_NOISE) - (alpha * answer.x + sigma * answer.eps)).abs().max() < 1e-12


def test_at_is_the_angular_update():
    schedule, t, s = CosineSchedule(), 0.7, 0.45
    a = math.atan(math.exp(10)) - math.atan(math.exp(-10))
    logsnr_t, logsnr_s = (schedule(torch.full((6,), u, dtype=torch.float64)) for u in (t, s))
    answer = Denoised(draw(0), draw(1), logsnr_t)
    turned = math.cos(a * (t - s)) * answer.z - math.sin(a * (t - s)) * answer.v
    assert (answer.at(logsnr_s) - turned).abs().max() < 1e-12


def test_at_its_own_level_is_z():
    answer = Denoised(draw(0), draw(1), LEVELS)
    assert (answer.at(LEVELS) - answer.z).abs().max() < 1e-14


def test_at_no_noise_is_x():
    answer = Denoised(draw(0), draw(1), LEVELS)
    assert (answer.at(torch.full_like(LEVELS, 80.0)) - answer.x).abs().max() < 1e-14


def test_from_x_and_from_move_are_inverses():
    answer = Denoised(draw(0), draw(1), LEVELS)
    again = Denoised.from_x(answer.z, answer.x, LEVELS)
    assert (again.v - answer.v).abs().max() < 1e-10
    again = Denoised.from_move(answer.z, answer.at(LESS_NOISE), LEVELS, LESS_NOISE)
    assert (again.v - answer.v).abs().max() < 1e-10


@pytest.mark.parametrize("said", ["v", "x", "less noise"])
def test_a_move_is_the_same_however_it_was_said_and_in_whichever_memory(said):
    answer = Denoised(draw(0), draw(1), LEVELS)
    if said != "v":
        end = LESS_NOISE if said == "less noise" else torch.full_like(LEVELS, torch.inf)
        answer = Denoised.from_move(answer.z, answer.at(end), LEVELS, end)
    between = LEVELS.lerp(LESS_NOISE, 0.5)
    by_v = Denoised(answer.z, answer.v, LEVELS).at(between)
    assert (answer.at(between) - by_v).abs().max() < 1e-10
    over_said, over_z = (replace(answer, said=answer.said.clone()) for _ in range(2))
    assert over_said.turned(between) is over_said.said
    assert (over_said.said - by_v).abs().max() < 1e-10
    over_z.onto(z := answer.z.clone(), between)
    assert torch.equal(z, over_said.said)


def test_from_x_in_float32_gives_the_same_x_and_the_same_moves():
    z, x = draw(0, torch.float32), draw(1, torch.float32).clamp(-1, 1)
    narrow = Denoised.from_x(z, x, LEVELS.float())
    wide = Denoised.from_x(z.double(), x.double(), LEVELS)
    assert (narrow.x - x).abs().max() < 2e-6
    assert (narrow.at(LESS_NOISE.float()) - wide.at(LESS_NOISE)).abs().max() < 2e-6


@pytest.mark.parametrize("logsnr", [30.0, 40.0, 90.0, 300.0])
def test_vanishing_sigma_stays_finite(logsnr: float):
    x = draw(0, torch.float32).clamp(-1, 1)
    answer = Denoised.from_x(x + 1e-7, x, torch.full((6,), logsnr))
    assert answer.v.isfinite().all()
    assert (answer.x - x).abs().max() < 1e-6


def test_gradient_reaches_v_and_x():
    z, v = draw(0).requires_grad_(), draw(1).requires_grad_()
    answer = Denoised(z, v, LEVELS)
    (by_v,) = torch.autograd.grad(answer.x.sum(), v)
    _, sigma = alpha_sigma(LEVELS)
    assert torch.allclose(by_v, -expand(sigma, z).expand_as(z))
    x = draw(2).requires_grad_()
    (by_x,) = torch.autograd.grad(Denoised.from_x(z, x, LEVELS).x.sum(), x)
    assert torch.allclose(by_x, torch.ones_like(x))


def test_the_gaussian_oracle_is_the_regression_of_x_on_z():
    """Orthogonality: the residual of the best prediction has no correlation with z."""
    generator = torch.Generator().manual_seed(0)
    x = 0.3 + 0.6 * torch.randn(1, 1, 1, 1, 400_000, generator=generator, dtype=torch.float64)
    eps = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    logsnr = torch.tensor([-0.5], dtype=torch.float64)
    alpha, sigma = (expand(part, x) for part in alpha_sigma(logsnr))
    z = alpha * x + sigma * eps
    residual = gaussian(0.3, 0.6)(z, logsnr).x - x
    assert abs(residual.mean()) < 5e-3
    assert abs((residual * (z - z.mean())).mean()) < 5e-3


def test_from_eps_is_the_prediction_with_that_noise():
    x, eps = draw(0), draw(1)
    answer = true_answer(x, eps)
    again = Denoised.from_eps(answer.z, eps, LEVELS)
    assert (again.eps - eps).abs().max() < 1e-12
    # An error of eps is magnified by 1 / alpha.
    assert (again.v - answer.v).abs().amax((1, 2, 3, 4)).le(1e-15 / alpha_sigma(LEVELS)[0]).all()
    assert Denoised.from_eps(x, eps, torch.full((6,), -torch.inf)).v.isfinite().all()
