import math

import pytest
import torch
from exact import answering, clips, gaussian, levels, sample
from torch import Tensor

from imagen_video.diffusion.denoised import Denoised, Denoiser
from imagen_video.diffusion.objective import (
    Draws,
    Objective,
    Target,
    Times,
    discrete_times,
    low_discrepancy_times,
    truth,
    two_teacher_steps,
    uniform_times,
)
from imagen_video.diffusion.schedule import CosineSchedule, alpha_sigma
from imagen_video.video import PerClip, Video

SCHEDULE = CosineSchedule()
WEIGHTINGS = ("v", "eps", "x", "snr_trunc", "min_snr", "sigmoid")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def video(b: int, dtype: torch.dtype = torch.float64) -> Video:
    return (
        torch.randn(b, 2, 3, 4, 5, generator=generator(9), dtype=torch.float64)
        .clamp(-1, 1)
        .to(dtype)
    )


def at(*times: float) -> Times:
    return lambda b, generator: torch.tensor(times, dtype=torch.float64)


def mse(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().mean(dim=(1, 2, 3, 4))


def seen(
    objective: Objective, x: Video, schedule: CosineSchedule
) -> tuple[Denoised, Tensor, Tensor]:
    """What a network that guesses wrong answered, and the loss and log-SNR of each clip."""
    answers: list[Denoised] = []

    def guess(z: Video, logsnr: PerClip) -> Denoised:
        answers.append(Denoised(z, torch.sin(3 * z), logsnr))
        return answers[0]

    loss = objective(guess, x, schedule, Draws(len(x)))
    assert torch.equal(loss.value, loss.per_clip.mean())
    return answers[0], loss.per_clip, loss.logsnr


@pytest.mark.parametrize("shift", [0.0, -5.0])
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_weightings_are_the_papers_table(weighting: str, shift: float):
    schedule, x = CosineSchedule(shift=shift), video(6)
    t = torch.linspace(0.05, 0.95, 6, dtype=torch.float64)
    answer, per_clip, logsnr = seen(Objective(weighting, times=at(*t.tolist())), x, schedule)
    assert torch.equal(logsnr, schedule(t))

    alpha, sigma = (part.reshape(-1, 1, 1, 1, 1) for part in alpha_sigma(logsnr))
    eps, snr = (answer.z - alpha * x) / sigma, logsnr.exp()
    x_mse, eps_mse = mse(answer.x, x), mse(answer.eps, eps)
    v_mse = mse(answer.v, alpha * eps - sigma * x)
    low, high = math.atan(math.exp((shift - 20) / 2)), math.atan(math.exp((20 + shift) / 2))
    angle = low + (high - low) * t  # d logsnr / dt of the cosine, by hand
    slope = -2 * (high - low) / (angle.sin() * angle.cos())
    expected = {
        "v": v_mse,
        "eps": eps_mse,
        "x": x_mse,
        "snr_trunc": torch.maximum(x_mse, eps_mse),
        "min_snr": snr.clamp(max=5) * x_mse,
        "sigmoid": torch.sigmoid(2 - logsnr) * -slope / 2 * eps_mse,
    }[weighting]
    assert torch.allclose(per_clip, expected, rtol=1e-8)


def test_sigmoid_on_the_unshifted_cosine_is_its_closed_form():
    """a e^(logsnr / 2) sigmoid(bias - logsnr) times the error of v (section 4.3)."""
    a = math.pi / 2 - 2 * math.atan(math.exp(-10))
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    logsnr = SCHEDULE(t)
    weight = Objective("sigmoid", sigmoid_bias=-1.0).v_weight(logsnr, SCHEDULE.slope(t))
    assert torch.allclose(weight, a * (logsnr / 2).exp() * torch.sigmoid(-1 - logsnr), rtol=1e-9)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_max_weight_bounds_the_weight_of_the_error_of_x(weighting: str):
    x, times = video(3), at(0.01, 0.3, 0.97)
    answer, bounded, _ = seen(Objective(weighting, max_weight=0.5, times=times), x, SCHEDULE)
    _, free, _ = seen(Objective(weighting, times=times), x, SCHEDULE)
    assert torch.allclose(bounded, torch.minimum(free, 0.5 * mse(answer.x, x)), rtol=1e-8)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize(("says", "max_weight"), [("v", math.inf), ("v", 8.0), ("x", 8.0)])
def test_float32_is_good_at_both_ends(weighting: str, says: str, max_weight: float):
    """The loss and its gradient by what the network says, v or x, against float64."""
    t = (0, 1e-4, 0.01, 0.5, 0.99, 1)
    objective = Objective(weighting, max_weight=max_weight, times=at(*t))
    x, said = video(6, torch.float32), 0.99 * video(6, torch.float32)

    def loss_and_gradient(x: Video, said: Video) -> tuple[Tensor, Tensor]:
        said = said.clone().requires_grad_()
        says_v: Denoiser = lambda z, logsnr: Denoised(z, said, logsnr)  # noqa: E731
        says_x = answering(lambda z, alpha, sigma: said)
        denoise = says_v if says == "v" else says_x
        per_clip = objective(denoise, x, SCHEDULE, Draws(len(x))).per_clip
        return per_clip, torch.autograd.grad(per_clip.sum(), said)[0]

    narrow, wide = loss_and_gradient(x, said), loss_and_gradient(x.double(), said.double())
    for single, double in zip(narrow, wide, strict=True):
        assert single.dtype == torch.float32
        error, size = (part.reshape(6, -1).norm(dim=1) for part in (single - double, double))
        assert (error < 1e-4 * size).all()


def test_truth_loses_nothing():
    x = video(4)

    def all_knowing(z: Video, logsnr: PerClip) -> Denoised:
        return Denoised.from_x(z, x, logsnr)

    loss = Objective(times=at(0.01, 0.4, 0.9, 1))(all_knowing, x, SCHEDULE, Draws(len(x)))
    assert loss.value < 1e-18
    assert truth(all_knowing(x, levels(4, 0.0))).x.equal(all_knowing(x, levels(4, 0.0)).x)


def test_noise_repeats_and_z_is_noised_to_its_level():
    x = torch.zeros(1, 1, 1, 1, 40_000)
    for time in (0.2, 0.8):
        answer, *_ = seen(Objective(times=at(time)), x, SCHEDULE)
        again, *_ = seen(Objective(times=at(time)), x, SCHEDULE)
        assert torch.equal(answer.z, again.z)
        _, sigma = alpha_sigma(answer.logsnr)
        assert abs(answer.z.std() / sigma - 1) < 0.02


def test_a_row_is_noised_alike_in_every_process():
    x = video(6)
    loss = Objective()(gaussian(0.0, 1.0), x, SCHEDULE, Draws(6, seed=1, step=2))
    for rows in ((0, 3), (5, 2, 1)):
        part = Objective()(gaussian(0.0, 1.0), x[list(rows)], SCHEDULE, Draws(6, rows, 1, 2))
        assert part.per_clip.equal(loss.per_clip[list(rows)])
        assert part.logsnr.equal(loss.logsnr[list(rows)])
    other = Objective()(gaussian(0.0, 1.0), x, SCHEDULE, Draws(6, seed=1, step=3))
    assert not other.per_clip.isclose(loss.per_clip).any()


def test_unknown_weighting_is_refused():
    wrong = Objective()
    object.__setattr__(wrong, "weighting", "mine")
    with pytest.raises(ValueError, match="'mine' is none of"):
        wrong(gaussian(0.0, 1.0), video(1), SCHEDULE, Draws(1))


def test_uniform_times():
    t = uniform_times(10_000, generator())
    assert t.min() >= 0 and t.max() < 1
    assert abs(t.mean() - 0.5) < 0.02
    assert abs(t.var() - 1 / 12) < 0.005


@pytest.mark.parametrize("b", [1, 5, 64])
def test_low_discrepancy_times_fill_every_part_of_the_batch_once(b: int):
    random = generator()
    for _ in range(20):
        t = low_discrepancy_times(b, random)
        assert t.min() >= 0 and t.max() < 1
        gaps = torch.cat([t, t.min()[None] + 1]).sort().values.diff()
        assert (gaps - 1 / b).abs().max() < 1e-6
    firsts = torch.stack([low_discrepancy_times(b, random)[0] for _ in range(2000)])
    assert abs(firsts.mean() - 0.5) < 0.03  # every place of the batch sees every time
    assert abs(firsts.var() - 1 / 12) < 0.01


def test_discrete_times_are_those_of_a_sampler():
    t = discrete_times(4)(1000, generator())
    assert t.unique().tolist() == [0.25, 0.5, 0.75, 1]


def answers(target: Target) -> Denoiser:
    """The perfect student: what the target says, without being told the truth."""
    return lambda z, logsnr: target(Denoised(z, torch.full_like(z, torch.nan), logsnr))


@pytest.mark.parametrize("shift", [0.0, -5.0])
@pytest.mark.parametrize("num_steps", [1, 2, 8, 64])
def test_perfect_student_equals_its_teacher(num_steps: int, shift: float):
    schedule, start = CosineSchedule(shift=shift), clips([-1.4, 0.1, 2.3])
    teacher = answering(lambda z, alpha, sigma: torch.tanh(2 * alpha * z + sigma))
    student = answers(two_teacher_steps(teacher, schedule, num_steps))
    halved = sample([student] * num_steps, schedule, lambda _: start)
    whole = sample([teacher] * (2 * num_steps), schedule, lambda _: start)
    assert (halved - whole).abs().max() < 1e-9


def test_three_rounds_of_perfect_students():
    start, denoise = clips([-1.4, 0.1, 2.3]), gaussian(0.3, 0.5)
    whole = sample([denoise] * 32, SCHEDULE, lambda _: start)
    for num_steps in (16, 8, 4):
        denoise = answers(two_teacher_steps(denoise, SCHEDULE, num_steps))
    assert (sample([denoise] * 4, SCHEDULE, lambda _: start) - whole).abs().max() < 1e-9


def test_the_target_is_the_papers_formula():
    """x_target = (z_e - r z_t) / (alpha_e - r alpha_t), r = sigma_e / sigma_t (section 8.2)."""
    num_steps, i, teacher, z = 8, 5, gaussian(0.3, 0.5), clips([-1.4, 0.1, 2.3])
    now, middle, end = (
        SCHEDULE(torch.full((3,), u, dtype=torch.float64))
        for u in (i / num_steps, (i - 0.5) / num_steps, (i - 1) / num_steps)
    )
    z_e = teacher(teacher(z, now).at(middle), middle).at(end)
    (alpha_t, sigma_t), (alpha_e, sigma_e) = alpha_sigma(now), alpha_sigma(end)
    ratio = float(sigma_e[0] / sigma_t[0])
    x_target = (z_e - ratio * z) / float(alpha_e[0] - ratio * alpha_t[0])
    told = answers(two_teacher_steps(teacher, SCHEDULE, num_steps))(z, now)
    assert (told.x - x_target).abs().max() < 1e-12
    assert (told.at(end) - z_e).abs().max() < 1e-12


@pytest.mark.parametrize("i", [1, 2, 3, 8])
def test_overlapping_steps_go_two_of_the_samplers_ahead(i: int):
    """As far as the stochastic sampler's move; the last one is alone (section 8.3)."""
    num_steps, teacher, z = 8, gaussian(0.3, 0.5), clips([-1.4, 0.1, 2.3])
    now, middle, end = (
        SCHEDULE(torch.full((3,), max(i - k, 0) / num_steps, dtype=torch.float64)) for k in range(3)
    )
    target = two_teacher_steps(teacher, SCHEDULE, num_steps, overlapping=True)
    told = answers(target)(z, now)
    first = teacher(z, now)
    if i == 1:
        assert (told.x - first.x).abs().max() < 1e-9
        return
    second = teacher(first.at(middle), middle)
    wanted, found = (second.x, told.x) if i == 2 else (second.at(end), told.at(end))
    assert (found - wanted).abs().max() < 1e-9


def test_an_all_knowing_teacher_teaches_the_truth():
    x = video(8)
    teacher = answering(lambda z, alpha, sigma: x)
    objective = Objective(times=discrete_times(4), target=two_teacher_steps(teacher, SCHEDULE, 4))
    assert objective(teacher, x, SCHEDULE, Draws(len(x))).value < 1e-18


def test_the_perfect_student_loses_nothing_and_the_teacher_gets_no_gradient():
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    teacher = answering(lambda z, alpha, sigma: torch.tanh(scale * alpha * z))
    target = two_teacher_steps(teacher, SCHEDULE, 4)
    objective = Objective("snr_trunc", times=discrete_times(4), target=target)
    loss = objective(answers(target), video(8), SCHEDULE, Draws(8))
    assert loss.value < 1e-18
    assert not loss.value.requires_grad
