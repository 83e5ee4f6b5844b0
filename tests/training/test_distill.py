"""Distillation: what students are told, and that runs of it learn, go on and end."""

import json
import re
from dataclasses import replace

import pytest
import torch
from forked import imagen_video  # pyright: ignore
from safetensors.torch import load_file

from imagen_video import presets
from imagen_video.cascade import Cascade
from imagen_video.diffusion.denoised import Denoised
from imagen_video.diffusion.guidance import (
    guidance_weights,
    guided,
    static_threshold,
    thresholded,
)
from imagen_video.diffusion.objective import Draws
from imagen_video.diffusion.sampler import Noise
from imagen_video.diffusion.schedule import CosineSchedule, step_times
from imagen_video.info import describe
from imagen_video.sampling import SampleSpec
from imagen_video.spec import GuidanceSpec, StageSpec
from imagen_video.stage import Stage, build_unet
from imagen_video.training.distill import DistillSpec
from imagen_video.training.student import Lesson, Student, finished_by
from imagen_video.unet.inputs import Conditioning
from imagen_video.weights import load_stage

ROWS = 3
OSCILLATING = GuidanceSpec(weight=5.0, low=1.0, constant_steps=2)


def lesson_of(teacher: Stage, lesson: Lesson, previous: Stage | None = None) -> Student:
    """A student that starts as its teacher."""
    spec = lesson.spec(teacher.spec, teacher.spec.train)
    unet = build_unet(spec)
    missing = unet.load_state_dict(teacher.unet.state_dict(), strict=False).missing_keys
    assert all(name.startswith("guidance.") for name in missing)
    return Student(spec, unet, teacher, lesson, previous)


def sampled(stage: Stage, guidance: GuidanceSpec) -> Stage:
    sampler = replace(stage.spec.sampler, guidance=guidance)
    return Stage(replace(stage.spec, sampler=sampler), stage.unet)


def learned(stage: Stage) -> Stage:
    """A random network that reads its weight, as one that has learned guidance."""
    spec = replace(stage.spec, unet=replace(stage.spec.unet, guided=(0.0, 15.0)))
    unet = build_unet(spec)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return Stage(spec, unet)


def given(spec: StageSpec) -> tuple[torch.Tensor, Conditioning]:
    """True videos, and captions that differ."""
    torch.manual_seed(2)
    video = torch.rand(ROWS, spec.output.frames, 3, *spec.output.size) * 2 - 1
    text = torch.randn(ROWS, 1, 5, spec.unet.text_dim)
    mask = torch.ones(ROWS, 1, 5, dtype=torch.bool)
    return video, Conditioning(text, mask, torch.tensor([True, True, True]))


@pytest.fixture
def base(tiny) -> Stage:
    return sampled(tiny.stages[0], GuidanceSpec(weight=3.0))


def test_told_no_weight_a_student_that_is_its_teacher_has_nothing_to_learn(base):
    plain = Lesson(weights=(0.0, 0.0))
    assert lesson_of(base, plain).loss(*given(base.spec), Draws(ROWS)).value < 1e-10
    assert lesson_of(base, Lesson()).loss(*given(base.spec), Draws(ROWS)).value > 1e-4


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


@pytest.mark.parametrize("stage", [0, 2, 5], ids=["base", "spatial", "temporal"])
@pytest.mark.parametrize("fine", [None, 8], ids=["halved", "consistent"])
def test_every_kind_of_stage_takes_fewer_steps(tiny, stage, fine):
    teacher = sampled(tiny.stages[stage], GuidanceSpec())
    student = lesson_of(teacher, Lesson(steps=4, teacher_steps=fine))
    assert student.spec.sampler.num_steps == 4 and not student.spec.unet.guided
    loss = student.loss(*given(student.spec), Draws(ROWS))
    loss.value.backward()
    assert loss.value > 0
    times = student.schedule.inverse(loss.logsnr) * (fine or 4)
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
    sampler = replace(teacher.spec.sampler, logsnr_shift=shift)
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
    wanted = guidance_weights(guidance, 2 * steps, schedule)
    assert len(set(wanted)) > 1
    for level, weight in told.items():
        nearest = min(range(2 * steps), key=lambda i: abs(levels[i] - level))
        assert level == pytest.approx(levels[nearest], abs=1e-2)
        assert weight == wanted[nearest]
    assert len({round(level, 1) for level in told}) == 2 * steps


def test_a_student_samples_in_one_call_a_step_told_its_weight(base):
    stage = sampled(learned(base), OSCILLATING)
    told: list[torch.Tensor] = []
    hook = stage.unet.register_forward_pre_hook(lambda _, args: told.append(args[2].guidance))
    _, cond = given(stage.spec)
    shape = (ROWS, stage.spec.output.frames, 3, *stage.spec.output.size)
    sampler = replace(stage.spec.sampler, num_steps=6)
    for _ in stage.sample_steps(cond, shape, Noise(0), sampler=sampler):
        pass
    hook.remove()
    assert [weight.tolist() for weight in told] == [[w] * ROWS for w in (5, 5, 1, 5, 1, 5)]
    with pytest.raises(ValueError, match="takes no negative prompt"):
        next(stage.sample_steps(cond, shape, Noise(0), negative=cond.without_text()))


@pytest.fixture(scope="module")
def taught(tiny) -> Cascade:
    """A cascade whose base has learned guidance, and whose TSR-1 has not."""
    return tiny.with_stages(sampled(learned(tiny.stages[0]), GuidanceSpec(weight=2.0)))


def test_a_negative_prompt_is_refused_where_nothing_reads_it(taught):
    with pytest.raises(ValueError, match="'base' has learned guidance"):
        next(taught.stream(["a cat"], SampleSpec(negative_prompt="a dog", until="base")))


def test_a_negative_prompt_is_read_where_it_can_be(taught):
    def made(negative: str) -> dict[str, torch.Tensor]:
        steps = taught.stream(["a cat"], SampleSpec(negative_prompt=negative, until="tsr1"))
        return {p.stage: p.video for p in steps if p.video is not None}

    plain = made("")
    with pytest.warns(UserWarning, match="not read by base: what has learned guidance"):
        told = made("a dog")
    assert torch.equal(plain["base"], told["base"])
    assert not torch.equal(plain["tsr1"], told["tsr1"])


def test_weights_that_were_not_learned_are_refused_before_work_is_done(taught):
    with pytest.raises(ValueError, match="'base' has learned guidance weights 0 to 15, got 16"):
        next(taught.stream(["a cat"], SampleSpec(guidance=16.0)))


def test_a_network_that_has_learned_guidance_is_counted_once_a_step(tiny, taught):
    (twice, *_), (once, *_) = describe(tiny.spec), describe(taught.spec)
    assert (twice.guided, once.guided) == (True, False)
    assert (twice.calls, once.calls) == (2 * twice.steps, once.steps)


def test_lessons_that_a_teacher_cannot_give(base):
    with pytest.raises(ValueError, match="sampled without it"):
        Lesson().spec(sampled(base, GuidanceSpec()).spec, base.spec.train)
    with pytest.raises(ValueError, match="has learned guidance already"):
        Lesson().spec(learned(base).spec, base.spec.train)
    with pytest.raises(ValueError, match="learned guidance weights 0 to 15, got 20"):
        wider = Lesson(steps=4, weights=(0.0, 20.0))
        wider.spec(sampled(learned(base), OSCILLATING).spec, base.spec.train)
    with pytest.raises(ValueError, match=r"got 5\.0, 1\.0"):
        Lesson(weights=(5.0, 1.0))
    with pytest.raises(ValueError, match="give the student a divisor of them"):
        Lesson(steps=3, teacher_steps=8)
    with pytest.raises(ValueError, match="got 3 after 8"):
        DistillSpec(rounds=(8, 3)).lessons(base.spec)


def test_the_rounds_of_a_guided_base_and_of_an_upsampling_stage(base, tiny):
    names = [name for name, _ in DistillSpec(stochastic=True).lessons(base.spec)]
    assert names == ["guidance", "32-steps", "16-steps", "8-steps", "8-stochastic"]
    direct = DistillSpec(rounds=(16, 8), direct=True).lessons(base.spec)
    assert [name for name, _ in direct] == ["16-steps", "8-steps"]
    few = DistillSpec(rounds=(8,), consistency=(4, 1)).lessons(base.spec)
    assert [(name, lesson.teacher_steps) for name, lesson in few[1:]] == [
        ("8-steps", None),
        ("4-consistent", 8),
        ("1-consistent", 4),
    ]
    plain = sampled(tiny.stages[6], GuidanceSpec())
    assert [name for name, _ in DistillSpec().lessons(plain.spec)] == ["16-steps", "8-steps"]


def test_the_command_distils_goes_on_and_ends_the_same(tiny, tmp_path):
    tiny.save_pretrained(tmp_path / "teacher", dtype=torch.float32)
    words = ["distill", "--teacher", tmp_path / "teacher", "--stage", "base", "--rounds", 2]
    words += "--updates 5 --guidance-updates 7 --learning-rate 1e-4 --weights 0 4".split()
    words += "--workers 0 --threads 1".split()
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    done = imagen_video(*words, "--out", whole)
    assert done.returncode == 0, done.stderr[-2000:]
    *last, command = done.stdout.splitlines()[-3:]
    assert [line.split()[0] for line in last] == ["guidance", "2-steps"]
    cascade = Cascade.from_pretrained(command.split()[-1])
    assert [stage.spec.sampler.num_steps for stage in cascade.stages[:2]] == [
        2,
        tiny.stages[1].spec.sampler.num_steps,
    ]
    assert cascade(["a cat"], until="tsr1").frames.shape[1] == 8
    student = load_stage(whole / "2-2-steps")
    assert student.spec.unet.guided and student.spec.sampler.num_steps == 2
    assert (whole / "2-2-steps" / "compared.png").read_bytes().startswith(b"\x89PNG")
    log = (whole / "1-guidance" / "log.jsonl").read_text().splitlines()
    errors = [line["validation"] for line in map(json.loads, log) if "validation" in line]
    assert errors[-1] < errors[0]

    stopped = imagen_video(*words, "--out", parts, "--minutes", 0)
    assert stopped.returncode == 0 and not (parts / "2-2-steps" / "checkpoints").exists()
    assert imagen_video(*words, "--out", parts).returncode == 0
    once, again = (load_file(at / "2-2-steps" / "model.safetensors") for at in (whole, parts))
    assert all(torch.equal(once[name], again[name]) for name in once)

    direct = [*words, "--direct", "--out", tmp_path / "direct"]
    done = imagen_video(*direct, "--init-from", whole / "2-2-steps")
    assert done.returncode == 0 and "1-2-steps" in done.stdout
    assert re.search(r"(\d+) of \1 weights are those of .*/2-2-steps", done.stderr)
    other = imagen_video(*("9" if word == "4" else word for word in words), "--out", parts)
    assert other.returncode == 2 and "holds another round" in other.stderr


def test_presets_are_not_students():
    for spec in (presets.mini(), presets.tiny(), presets.paper()):
        assert not any(stage.unet.guided for stage in spec.stages)
