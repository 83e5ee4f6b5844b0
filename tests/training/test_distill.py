"""Distillation: stages that have learned guidance, and that runs of it learn, go on and end."""

import json
import re
import shutil
from dataclasses import replace
from subprocess import CompletedProcess

import pytest
import torch
from forked import imagen_video  # pyright: ignore
from safetensors.torch import load_file
from students import OSCILLATING, ROWS, given, learned, sampled  # pyright: ignore

from imagen_video import presets
from imagen_video.cascade import Cascade
from imagen_video.diffusion.sampler import Noise
from imagen_video.info import describe
from imagen_video.sampling import SampleSpec
from imagen_video.spec import GuidanceSpec
from imagen_video.stage import Stage, build_unet
from imagen_video.training.checkpoint import facts_of, latest
from imagen_video.training.distill import DistillSpec
from imagen_video.training.export import export_cascade
from imagen_video.training.lora import Lora
from imagen_video.training.student import Lesson
from imagen_video.weights import load_stage, plain_spec


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


def test_a_negative_prompt_is_read_where_guidance_stands_beside(tiny):
    stage = tiny.stages[0]
    beside = replace(stage.spec.unet, guided=(0.0, 3.0), side=8)
    sampler = replace(stage.spec.sampler, guidance=GuidanceSpec(weight=2.0))
    unet = build_unet(replace(stage.spec, unet=beside)).requires_grad_(False)
    unet.load_state_dict(stage.unet.state_dict(), strict=False)
    own = Stage(replace(stage.spec, unet=beside, sampler=sampler), unet)
    plain = Stage(replace(stage.spec, sampler=sampler), stage.unet)
    made = [
        tiny.with_stages(which)("a cat", negative_prompt="a dog", until="base", guidance=9.0).frames
        for which in (own, plain)
    ]
    assert torch.equal(*made), "by two calls, of any weight"
    with pytest.raises(ValueError, match="learned guidance weights 0 to 3, got 9"):
        tiny.with_stages(own)("a cat", until="base", guidance=9.0)


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
    with pytest.raises(ValueError, match="has learned guidance already"):
        Lesson(side=8).spec(learned(base).spec, base.spec.train)
    beside = Lesson(side=8).spec(base.spec, base.spec.train)
    assert plain_spec(beside) == base.spec
    nowhere = sampled(base, GuidanceSpec(weight=3.0, interval=(-21.0, -20.5)))
    with pytest.raises(ValueError, match=r"none of its .* steps lies within"):
        Lesson(side=8).spec(nowhere.spec, base.spec.train)
    for weights in ((0.0, 2.0), (5.0, 9.0)):
        with pytest.raises(ValueError, match="guidance 3: let --weights begin and end around that"):
            DistillSpec(guidance_only=True, weights=weights).lessons(base.spec)
    again = GuidanceSpec(weight=3.0, low=1.0, constant_steps=1)
    with pytest.raises(ValueError, match="guidance 1: let --weights begin and end around that"):
        DistillSpec(guidance_only=True, weights=(2.0, 9.0)).lessons(sampled(base, again).spec)
    with pytest.raises(ValueError, match="--side is of the network that --guidance-only trains"):
        DistillSpec(side=8).lessons(base.spec)
    with pytest.raises(ValueError, match="give no steps"):
        Lesson(side=8, steps=4)
    with pytest.raises(ValueError, match="learned guidance weights 0 to 15, got 20"):
        wider = Lesson(steps=4, weights=(0.0, 20.0))
        wider.spec(sampled(learned(base), OSCILLATING).spec, base.spec.train)
    for weights in ((5.0, 1.0), (0.0, float("inf"))):
        with pytest.raises(ValueError, match=r"guidance weights are drawn from"):
            Lesson(weights=weights)
    within = sampled(base, GuidanceSpec(weight=3.0, interval=(-30.0, 0.0)))
    for low, high, asked in ((0.0, 2.0, "3"), (2.0, 9.0, "0"), (4.0, 9.0, "3 and 0")):
        with pytest.raises(ValueError, match=rf"guidance {asked}: .* got {low:g} {high:g}"):
            DistillSpec(weights=(low, high)).lessons(within.spec)
    assert DistillSpec(weights=(2.0, 9.0), direct=True).lessons(within.spec)
    knowing = learned(within)  # weights 0 to 15
    assert DistillSpec(weights=(2.0, 9.0)).lessons(knowing.spec)
    few = replace(knowing.spec, unet=replace(knowing.spec.unet, guided=(2.0, 9.0)))
    with pytest.raises(ValueError, match="learned guidance weights 2 to 9, got 0"):
        DistillSpec(weights=(2.0, 9.0)).lessons(few)
    with pytest.raises(ValueError, match="got 3 after 8"):
        DistillSpec(rounds=(8, 3)).lessons(base.spec)


def test_the_learning_rate_falls_all_the_way(base):
    given = base.spec.train
    train = DistillSpec(updates=400, guidance_updates=900, learning_rate=2e-4).train
    halving, guidance = train(given, Lesson(steps=8)), train(given, Lesson())
    assert (halving.steps, halving.cooldown, halving.learning_rate) == (400, 400, 2e-4)
    assert (guidance.steps, guidance.cooldown) == (900, 900)
    assert halving.warmup <= 20 and halving.text_dropout == given.text_dropout > 0


def test_the_rounds_of_a_guided_base_and_of_an_upsampling_stage(base, tiny):
    names = [name for name, _ in DistillSpec(stochastic=True).lessons(base.spec)]
    assert names == ["guidance", "32-steps", "16-steps", "8-steps", "8-stochastic"]
    direct = DistillSpec(rounds=(16, 8), direct=True).lessons(base.spec)
    assert [name for name, _ in direct] == ["16-steps", "8-steps"]
    [(name, alone)] = DistillSpec(guidance_only=True).lessons(base.spec)
    assert (name, alone.steps, alone.side) == ("guidance", None, 32)
    with pytest.raises(ValueError, match="give no --rounds"):
        DistillSpec(guidance_only=True, rounds=(8,)).lessons(base.spec)
    plain = sampled(tiny.stages[6], GuidanceSpec())
    assert [name for name, _ in DistillSpec().lessons(plain.spec)] == ["16-steps", "8-steps"]


def went_on(done: CompletedProcess[str], *, steps: int) -> bool:
    """Whether a run ended well that began behind the first of so many steps."""
    begun = f"| 0/{steps} [" not in done.stderr and f"| 1/{steps} [" in done.stderr
    return done.returncode == 0 and begun


def test_the_command_distils_goes_on_and_ends_the_same(tiny, tmp_path, inside):
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
    teacher = Cascade.from_pretrained(tmp_path / "teacher")
    taught, made, other = (
        whom("a cat", seed=seed, until="base").frames.float()
        for whom, seed in ((teacher, 7), (cascade, 7), (cascade, 8))
    )
    # A seed is the same video for both.
    assert (made - taught).square().mean() < 0.1 * (made - other).square().mean()
    student = load_stage(whole / "2-2-steps")
    assert student.spec.unet.guided and student.spec.sampler.num_steps == 2
    assert (whole / "2-2-steps" / "compared.png").read_bytes().startswith(b"\x89PNG")
    log = (whole / "1-guidance" / "log.jsonl").read_text().splitlines()
    errors = [line["validation"] for line in map(json.loads, log) if "validation" in line]
    assert errors[-1] < errors[0]

    stopped = imagen_video(*words, "--out", parts, "--minutes", 0)
    assert stopped.returncode == 0 and not (parts / "2-2-steps" / "checkpoints").exists()
    assert went_on(imagen_video(*words, "--out", parts), steps=7)
    # Stopped in the round that halves its steps.
    halved = tmp_path / "halved"
    shutil.copytree(whole / "1-guidance", halved / "1-guidance")
    assert imagen_video(*words, "--out", halved, "--minutes", 0).returncode == 0
    assert facts_of(latest(halved / "2-2-steps"))["step"] == 1
    assert went_on(imagen_video(*words, "--out", halved), steps=5)
    once, *again = (
        load_file(at / "2-2-steps" / "model.safetensors") for at in (whole, parts, halved)
    )
    assert all(torch.equal(weight, other[name]) for other in again for name, weight in once.items())

    direct = [*words, "--direct", "--weighting", "snr_trunc", "--out", tmp_path / "direct"]
    done = imagen_video(*direct, "--init-from", whole / "2-2-steps")
    assert done.returncode == 0 and "1-2-steps" in done.stdout
    spec = load_stage(tmp_path / "direct" / "1-2-steps").spec
    assert (spec.weighting, spec.max_weight) == ("snr_trunc", None)
    assert re.search(r"(\d+) of \1 weights are those of .*/2-2-steps", done.stderr)
    other = inside(*("9" if word == "4" else word for word in words), "--out", parts)
    assert other.returncode == 2 and "holds another round" in other.stderr
    for before, now, told in (
        ("--guidance-updates 7", "--guidance-updates 3", "train.steps 7, not 3"),
        ("--threads 1", "--threads 1 --seed 1", "trained with seed 0, not 1"),
        ("--threads 1", "--threads 1 --direct", "none of the rounds 1-2-steps"),
        ("--threads 1", f"--threads 1 --init-from {whole}/2-2-steps", "holds another round"),
        ("--learning-rate 1e-4", "--learning-rate 0", "learning_rate must be above 0"),
    ):
        changed = " ".join(map(str, words)).replace(before, now).split()
        other = inside(*changed, "--out", parts)
        assert other.returncode == 2 and told in other.stderr, other.stderr[-2000:]


def test_a_network_beside_the_teacher_is_trained_goes_on_and_is_exported(tiny, tmp_path, inside):
    within = GuidanceSpec(weight=3.0, interval=(-10.0, 1.0))
    teacher = tiny.with_stages(sampled(tiny.stages[0], within))
    teacher.save_pretrained(tmp_path / "teacher", dtype=torch.float32)
    words = ["distill", "--teacher", tmp_path / "teacher", "--stage", "base", "--guidance-only"]
    words += "--side 8 --updates 6 --learning-rate 1e-3 --workers 0 --threads 1".split()
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    done = imagen_video(*words, "--out", whole)
    assert done.returncode == 0 and "| 0/6 [" in done.stderr, done.stderr[-2000:]
    assert imagen_video(*words, "--out", parts, "--minutes", 0).returncode == 0
    assert went_on(imagen_video(*words, "--out", parts), steps=6)
    own, again = (load_file(at / "1-guidance" / "model.safetensors") for at in (whole, parts))
    taught = teacher.stages[0].unet.state_dict()
    for name, weight in own.items():
        assert torch.equal(weight, again[name])
        if not name.startswith("side."):
            assert torch.equal(weight, taught[name].to(weight))
    assert any(weight.any() for name, weight in own.items() if name.startswith("side.out."))

    teacher.save_pretrained(tmp_path / "half", dtype=torch.bfloat16)
    made = [
        Cascade.from_pretrained(at, dtype=torch.float32)(
            "a cat", seed=7, until="base", guidance=0.0
        ).frames
        for at in (whole / "cascade", tmp_path / "half")
    ]
    assert torch.equal(*made), "without guidance it is its teacher"
    done = inside("export", whole / "1-guidance", "--out", tmp_path / "exported")
    assert done.returncode == 0, done.stderr[-2000:]
    exported = load_file(tmp_path / "exported" / "model.safetensors")
    assert all(torch.equal(exported[name], weight) for name, weight in own.items())

    # A stage with such a network teaches without it, and what was learned can be built on.
    longer = ["distill", "--teacher", whole / "cascade", *words[3:], "--out", tmp_path / "on"]
    assert imagen_video(*longer).returncode == 0
    onwards = load_file(tmp_path / "on" / "1-guidance" / "model.safetensors")
    assert all(torch.equal(onwards[name], own[name]) for name in own if name[:5] != "side.")
    assert any(not torch.equal(onwards[name], own[name]) for name in own if name[:5] == "side.")
    fewer = [*longer[:5], *"--rounds 2 --direct --updates 1 --workers 0 --threads 1".split()]
    assert imagen_video(*fewer, "--out", tmp_path / "fewer").returncode == 0
    assert load_stage(tmp_path / "fewer" / "1-2-steps").spec.unet.side is None
    training = ["train", "--preset", whole / "cascade", "--stage", "base", "--steps", 1]
    for more in ([], ["--lora", 2, "--init-from", whole / "cascade" / "base"]):
        refused = inside(*training, *more, "--out", tmp_path / "train", "--workers", 0)
        assert refused.returncode == 2 and "has a side network" in refused.stderr
    # What it stands beside takes adapters, and a cascade takes both.
    below = Lora.over(whole / "cascade" / "base", 2).load_base(teacher.stages[0].spec)
    assert below.spec.unet.side is None
    export_cascade(whole / "cascade", teacher.spec, tmp_path / "whole-again")
    assert Cascade.from_pretrained(tmp_path / "whole-again").stages[0].spec.unet.side == 8
    # It stays with the weights that it was trained beside.
    teacher.save_pretrained(tmp_path / "teacher", dtype=torch.bfloat16)
    refused = inside(*words, "--out", whole)
    assert refused.returncode == 2 and "holds another round" in refused.stderr


def test_a_student_that_is_its_teacher_makes_the_same_of_a_seed(base):
    teacher = sampled(base, GuidanceSpec())
    lesson = Lesson(steps=teacher.spec.sampler.num_steps)
    student = Stage(lesson.spec(teacher.spec, teacher.spec.train), teacher.unet)
    cond, shape = given(base.spec)[1], (ROWS, base.spec.output.frames, 3, *base.spec.output.size)
    made = [
        [state.z.clone() for state in stage.sample_steps(cond, shape, Noise(7))]
        for stage in (teacher, student)
    ]
    assert len(made[0]) == len(made[1]) and all(map(torch.equal, *made))


def test_presets_are_not_students():
    for spec in (presets.mini(), presets.tiny(), presets.paper()):
        assert not any(stage.unet.guided for stage in spec.stages)
