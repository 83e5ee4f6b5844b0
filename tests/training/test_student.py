"""What students are told, and that they can learn it."""

from dataclasses import replace

import pytest
import torch
from forked import imagen_video  # pyright: ignore
from students import OSCILLATING, ROWS, given, learned, lesson_of, sampled  # pyright: ignore

from imagen_video.diffusion.denoised import Denoised
from imagen_video.diffusion.guidance import (
    guidance_weights,
    guided,
    static_threshold,
    thresholded,
)
from imagen_video.diffusion.objective import Draws
from imagen_video.diffusion.schedule import CosineSchedule, step_times
from imagen_video.sampling import SampleSpec, override
from imagen_video.spec import GuidanceSpec
from imagen_video.stage import Stage
from imagen_video.training.ema import trained
from imagen_video.training.student import Lesson, Student, finished_by
from imagen_video.unet.inputs import Conditioning
from imagen_video.weights import load_stage, save_stage


def test_told_no_weight_a_student_that_is_its_teacher_has_nothing_to_learn(base):
    plain = Lesson(weights=(0.0, 0.0))
    assert lesson_of(base, plain).loss(*given(base.spec), Draws(ROWS)).value < 1e-10
    assert lesson_of(base, Lesson()).loss(*given(base.spec), Draws(ROWS)).value > 1e-4


def test_a_base_of_one_step_is_no_stage_before(tiny):
    base, after = tiny.stages[:2]
    single = replace(base.spec.sampler, num_steps=1)
    previous = Stage(replace(base.spec, sampler=single), base.unet)
    with pytest.raises(ValueError, match="base of one step"):
        Student(after.spec, after.unet, after, Lesson(steps=1), previous)


def test_a_student_of_guidance_is_told_the_mixture_of_two_calls(base):
    student = lesson_of(base, Lesson(weights=(2.0, 9.0)))
    video, cond = given(base.spec)
    asked: list[tuple[Denoised, torch.Tensor]] = []
    denoiser = student.denoiser

    def noting(told: Conditioning, **options):
        def denoise(z, logsnr):
            assert told.guidance is not None
            mixed = guided(base.denoiser(cond.cat(cond.without_text())), told.guidance)
            asked.append(((answer := mixed(z, logsnr)), told.guidance))
            return thresholded(lambda *_: answer, static_threshold)(z, logsnr)

        return denoise if told.guidance is not None else denoiser(told, **options)

    student.denoiser = noting
    loss = student.loss(video, replace(cond), Draws(ROWS, seed=4))
    assert loss.value < 1e-12  # the perfect student
    mixed, weights = asked[0]
    assert ((weights >= 2) & (weights <= 9)).all() and weights.std() > 0
    assert mixed.x.abs().max() > 1, "clipped as sampling does"


def test_a_student_of_two_calls_and_two_steps_at_once(base):
    """What it is told takes z where two guided steps of the sampler take it."""
    student = lesson_of(base, Lesson(steps=4, weights=(3.0, 3.0)))
    assert student.spec.unet.guided == (3.0, 3.0)
    video, cond = given(base.spec)
    schedule, denoiser = student.schedule, student.denoiser

    steps = replace(base.spec.sampler, num_steps=8)

    def noting(told: Conditioning, **options):
        if told.guidance is None:
            return denoiser(told, **options)
        sampling, *_ = base.denoisers(cond, sampler=steps)

        def denoise(z, logsnr):
            time = schedule.inverse(logsnr).double()
            middle, end = (schedule((time - part / 8).clamp(min=0)).float() for part in (1, 2))
            end = torch.where(time < 0.3, torch.inf, end)  # the last step ends without noise
            there = sampling(sampling(z, logsnr).at(middle), middle).at(end)
            return Denoised.from_move(z, there, logsnr, end)

        return denoise

    student.denoiser = noting
    assert student.loss(video, cond, Draws(ROWS, seed=5)).value < 1e-8


def test_where_sampling_is_unguided_no_weight_is_told(base):
    teacher = sampled(base, GuidanceSpec(weight=3.0, interval=(-30.0, 0.0)))
    student = lesson_of(teacher, Lesson(weights=(2.0, 9.0)))
    told: list[tuple[float, float]] = []
    hook = student.unet.register_forward_pre_hook(
        lambda _, args: told.extend(zip(args[1].tolist(), args[2].guidance.tolist(), strict=True))
    )
    (video, cond), losses = given(student.spec), []
    for step in range(8):
        loss = student.loss(video, cond, Draws(ROWS, step=step))
        losses += zip(loss.logsnr.tolist(), loss.per_clip.tolist(), strict=True)
    hook.remove()
    assert {logsnr > 0 for logsnr, _ in told} == {True, False}
    assert all((weight == 0) == (logsnr > 0) for logsnr, weight in told)
    # There the student, which begins as its teacher, has nothing to learn.
    assert all(error < 1e-10 for logsnr, error in losses if logsnr > 0)
    assert max(error for logsnr, error in losses if logsnr < 0) > 1e-4


def test_a_network_beside_its_teacher_learns_at_the_levels_of_guided_steps(base):
    spaced = replace(base.spec.sampler, num_steps=4, logsnr_shift=-1.5)
    within = replace(spaced, guidance=GuidanceSpec(weight=3.0, interval=(-10.0, 1.0)))
    teacher = Stage(replace(base.spec, sampler=within), base.unet)
    student, asked = lesson_of(teacher, Lesson(weights=(2.0, 9.0), side=8)), set()
    hook = student.unet.register_forward_pre_hook(lambda _, args: asked.update(args[1].tolist()))
    for step in range(8):
        student.loss(*given(student.spec), Draws(ROWS, step=step))
    hook.remove()
    steps = CosineSchedule(shift=-1.5)(torch.arange(1, 5) / 4)
    guided_steps = [level for level in steps.flip(0).tolist() if -10 <= level <= 1]
    assert 0 < len(guided_steps) < 4
    assert sorted(asked) == pytest.approx(guided_steps, abs=1e-3)


def test_a_network_beside_its_teacher_learns_what_two_calls_differ_by(base):
    student = lesson_of(base, Lesson(side=8))
    (video, cond), draws = given(base.spec), Draws(ROWS, seed=4)
    trunk = {name: weight.clone() for name, weight in student.unet.named_parameters()}
    optimizer = torch.optim.Adam(trained(student.unet).values(), lr=3e-3)
    losses = []
    for _ in range(120):
        loss = student.loss(video, cond, draws).value
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    moved = {
        name for name, weight in student.unet.named_parameters() if (weight != trunk[name]).any()
    }
    assert moved and all(name.startswith("side.") for name in moved)
    # Its error is that of the direction: of the guided answer under any weight, over that weight.
    z, logsnr = torch.randn_like(video), torch.full((ROWS,), -1.0)
    with torch.no_grad():
        x = student.denoiser(cond)(z, logsnr).x
        without = base.denoiser(cond.without_text())(z, logsnr).x
        for weight in (-1.0, 2.0, 5.0):
            told = replace(cond, guidance=torch.full((ROWS,), weight))
            missed = student.denoiser(told)(z, logsnr).x - torch.lerp(without, x, 1 + weight)
            if weight == -1:
                error = -missed
            torch.testing.assert_close(missed, weight * error, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("stage", [0, 2, 5], ids=["base", "spatial", "temporal"])
def test_every_kind_of_stage_takes_fewer_steps(tiny, stage):
    teacher = sampled(tiny.stages[stage], GuidanceSpec())
    student = lesson_of(teacher, Lesson(steps=4))
    assert student.spec.sampler.num_steps == 4 and not student.spec.unet.guided
    loss = student.loss(*given(student.spec), Draws(ROWS))
    loss.value.backward()
    assert loss.value > 0
    times = student.schedule.inverse(loss.logsnr) * 4
    torch.testing.assert_close(times, times.round(), atol=1e-4, rtol=0)
    assert all(weight.grad is None for weight in teacher.unet.parameters())


@pytest.mark.parametrize("number", [1, 2, 5], ids=["after the base", "spatial", "temporal"])
def test_low_resolution_videos_as_the_stage_before_makes_them(tiny, number):
    """Not far from the true ones, and of every clip and packed image alone."""
    previous, teacher = tiny.stages[number - 1], sampled(tiny.stages[number], GuidanceSpec())
    student = lesson_of(teacher, Lesson(steps=4), previous)
    (video, cond), draws = given(student.spec), Draws(ROWS)
    true = Stage.shown_before(student, video, cond, draws)
    asked: list[int] = []
    hook = previous.unet.register_forward_pre_hook(lambda _, args: asked.append(len(args[0])))
    made = student.shown_before(video, cond, draws)
    hook.remove()
    assert made.shape == true.shape and made.abs().max() <= 1
    assert 1e-3 < (made - true).abs().mean() < (torch.randn_like(true) - true).abs().mean()
    assert len(asked) == previous.spec.sampler.num_steps // 2
    student.loss(video, cond, draws).value.backward()
    assert all(weight.grad is None for weight in previous.unet.parameters())
    with pytest.raises(ValueError, match="the stage before it"):
        lesson_of(teacher, Lesson(steps=4), teacher)


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_a_stage_that_knows_the_truth_finishes_it(tiny, steps):
    stage, (video, cond) = sampled(tiny.stages[2], GuidanceSpec()), given(tiny.stages[2].spec)
    sampler = replace(stage.spec.sampler, num_steps=steps)
    stage = Stage(replace(stage.spec, sampler=sampler), stage.unet)

    def knowing(cond: Conditioning, **frames):
        return lambda z, logsnr: Denoised.from_x(z, video, logsnr)

    stage.denoiser = knowing
    assert (finished_by(stage, video, cond, Draws(ROWS)) - video).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("guidance", "shift"),
    [(OSCILLATING, None), (GuidanceSpec(weight=5.0, interval=(-9.0, 1.0)), -2.0)],
)
def test_what_varies_over_the_teachers_steps_is_absorbed(base, guidance, shift):
    teacher, steps = sampled(learned(base), guidance), 4
    sampler = replace(teacher.spec.sampler, logsnr_shift=shift, num_steps=steps)
    teacher = Stage(replace(teacher.spec, sampler=sampler), teacher.unet)
    student = lesson_of(teacher, Lesson(steps=steps, weights=(5.0, 5.0)))
    assert student.spec.sampler.guidance == GuidanceSpec(weight=5.0)
    assert student.spec.sampler.logsnr_shift == shift
    told: dict[float, float] = {}
    hook = teacher.unet.register_forward_pre_hook(
        lambda _, args: told.update(zip(args[1].tolist(), args[2].guidance.tolist(), strict=True))
    )
    for seed in range(6):
        student.loss(*given(base.spec), Draws(ROWS, seed=seed))
    hook.remove()
    schedule = CosineSchedule(shift=teacher.spec.logsnr_shift if shift is None else shift)
    levels = schedule(step_times(2 * steps))[:-1].float().tolist()
    guidance = override(teacher.spec.sampler, SampleSpec(steps=2 * steps)).guidance
    wanted = guidance_weights(guidance, 2 * steps, schedule)
    assert len(set(wanted)) > 1
    for level, weight in told.items():
        nearest = min(range(2 * steps), key=lambda i: abs(levels[i] - level))
        assert level == pytest.approx(levels[nearest], abs=1e-2)
        assert weight == wanted[nearest]
    assert len({round(level, 1) for level in told}) == 2 * steps


def test_a_stage_is_distilled_on_what_the_one_before_makes(tiny, tmp_path, inside):
    tiny.save_pretrained(tmp_path / "teacher", dtype=torch.float32)
    before, out = tmp_path / "teacher" / "tsr1", tmp_path / "out"
    words = ["distill", "--teacher", tmp_path / "teacher", "--stage", "ssr1", "--out", out]
    words += "--updates 2 --workers 0 --threads 1".split()
    refused = inside(*words, "--rounds", 1, "--previous", tmp_path / "teacher" / "base")
    assert refused.returncode == 2 and "the stage before it" in refused.stderr
    words += ["--previous", before, "--direct", "--rounds", 1]
    done = imagen_video(*words)  # the round that was refused had begun nothing
    assert done.returncode == 0, done.stderr[-2000:]
    assert (out / "1-1-steps" / "compared.png").is_file()
    assert load_stage(out / "1-1-steps").spec.sampler.num_steps == 1
    stage = load_stage(before)
    next(stage.unet.parameters()).data.add_(1)
    save_stage(stage, before, dtype=torch.float32)
    other = inside(*words)
    assert other.returncode == 2 and "holds another round" in other.stderr
