"""Training: a stage learns what it sees, and a folder holds what is needed to go on."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_trainer import Still, tiny_trainer  # pyright: ignore

from imagen_video import presets
from imagen_video.data.mix import Mix
from imagen_video.diffusion.objective import Draws, Objective, fixed_time
from imagen_video.stage import Stage
from imagen_video.training.ahead import Data
from imagen_video.training.checkpoint import best, latest
from imagen_video.training.ema import EMA
from imagen_video.training.engine import initialise_from
from imagen_video.training.job import JobSpec
from imagen_video.training.run import RunSpec, rate_at, with_steps
from imagen_video.training.trainer import Trainer
from imagen_video.unet.inputs import Conditioning
from imagen_video.video import VideoFormat, resize, to_float
from imagen_video.weights import working_dtype

MINI = {stage.unet: stage for stage in presets.mini().stages if stage.unet.patch > 1}
"""One stage of each network: two that are alike learn the same to the last digit."""


@pytest.mark.parametrize("spec", MINI.values(), ids=lambda spec: spec.name)
def test_folded_stage_carries_what_it_predicts(spec):
    """At low noise the loss goes to near zero when one clip is learned by heart (decision 13).

    The clip has a new pattern in every patch: more numbers than a folded stage has channels.
    """
    torch.manual_seed(0)
    stage = Stage(replace(spec, aug_max=0.01))  # the question is what the network can carry
    side = 2 * spec.unet.multiple
    small = VideoFormat(4, side, side, 24.0)
    coarse = 2 * torch.rand(1, 3, side // 2, side // 2) - 1
    pattern = resize(coarse[None], small.height, small.width)[0, 0]
    clip = torch.stack([pattern.roll(3 * frame, -1) for frame in range(small.frames)])
    video = clip[None]
    text = torch.zeros(1, 1, 1, spec.unet.text_dim)
    cond = Conditioning(text, text[..., 0] > 1, torch.tensor([True]))
    low_noise = Objective(weighting="x", times=fixed_time(0.005))
    optimizer = torch.optim.AdamW(stage.unet.parameters(), weight_decay=0.0, fused=True)
    losses, steps = [], 100
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 5e-4 * (1 - step / steps)
        with torch.autocast("cpu", torch.bfloat16, enabled=working_dtype() is torch.bfloat16):
            loss = stage.loss(video, cond, Draws(1, step=step), objective=low_noise).value
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    end = sum(losses[-5:]) / 5
    assert end < 2e-3  # 33 dB over the whole clip
    assert end < 0.1 * losses[0]


def test_run_leaves_a_stage_a_log_and_a_sheet(tiny, tmp_path):
    from imagen_video.training.sheets import SheetDrawer, Shown
    from imagen_video.weights import load_stage

    trainer = tiny_trainer(tmp_path, tiny, log_every=4)
    spec, shown = trainer.stage.spec, Shown(prompts=("a square", "a star"))
    drawer = SheetDrawer(spec, tiny.encoder, tmp_path / "sheets", shown, step=lambda: trainer.step)
    assert trainer.run(drawer) == 12
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8, 12]
    assert (tmp_path / "sheets" / "step-000012.png").read_bytes().startswith(b"\x89PNG")
    loaded = load_stage(tmp_path)
    average = trainer.averaged().unet.state_dict()
    for name, value in loaded.unet.state_dict().items():
        assert torch.equal(value, average[name].to(torch.bfloat16))


def test_minutes_stop_early_but_the_schedule_counts_steps(tiny, tmp_path):
    trainer = tiny_trainer(tmp_path, tiny, steps=10_000, minutes=0.01)
    assert trainer.run() < 10_000
    assert tiny_trainer(tmp_path, tiny, steps=10_000).step == trainer.step


def test_a_gradient_that_is_never_finite_ends_the_run(tiny, tmp_path):
    trainer = tiny_trainer(tmp_path, tiny, steps=200, log_every=5)
    next(trainer.stage.unet.parameters()).data.fill_(torch.inf)
    with pytest.raises(ValueError, match=r"not finite in step after step.* another --out$"):
        trainer.run()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[0]["skipped"] == 5
    assert latest(tmp_path) is None  # it would only be gone on with


def test_initialising_takes_what_fits(tiny, tmp_path):
    tiny.save_pretrained(tmp_path)
    spec = presets.tiny().stages[3]
    stage = Stage(spec)
    names = initialise_from(stage, tmp_path / "ssr1")
    assert len(names) == len(stage.unet.state_dict())
    source = tiny.stages[2].unet.state_dict()
    assert all(torch.equal(v, source[k]) for k, v in stage.unet.state_dict().items())


def test_learning_rate_warms_up_holds_and_cools_down():
    train = replace(presets.tiny().stages[0].train, steps=100, warmup=10, cooldown=20)
    rates = [rate_at(step, train) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:81] == [1.0] * 72
    assert rates[90] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.05)


def test_average_ramps_up_and_follows():
    module = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(module.weight)
    ema = EMA(module, 0.9)
    torch.nn.init.ones_(module.weight)
    expected = 0.0
    for step in range(200):
        ema.update(module, step)
        expected += (1 - expected) * (1 - min(0.9, (1 + step) / (10 + step)))
    assert ema.average["weight"].item() == pytest.approx(expected, abs=1e-5)
    assert expected > 0.999


@pytest.mark.parametrize("spec", presets.tiny().stages, ids=lambda spec: spec.name)
def test_every_stage_learns_from_clips_and_images(spec, tiny):
    """Also defect D1: stills give a finite loss in every stage, temporal ones included."""
    torch.manual_seed(0)
    stage = Stage(spec)
    batch = Mix(Still(), spec, seed=0, steps=1)[0]
    text = tiny.encoder(["a square"]).tokens[:, None].expand(3, spec.output.frames, -1, -1)
    cond = Conditioning(text, torch.ones(text.shape[:3], dtype=torch.bool), batch.is_video)
    video = to_float(batch.video)
    optimizer = torch.optim.AdamW(stage.unet.parameters(), 3e-3)
    losses = []
    for step in range(24):
        loss = stage.loss(video, cond, Draws(len(video), step=step % 4))
        assert torch.isfinite(loss.per_clip).all()
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
        losses.append(loss.value.item())
    assert sum(losses[-4:]) < 0.7 * sum(losses[:4])


def trained(folder: Path, tiny, **options) -> dict[str, torch.Tensor]:
    trainer = tiny_trainer(folder, tiny, steps=4, precision="fp32", **options)
    trainer.run()
    return trainer.stage.unet.state_dict()


@pytest.mark.parametrize("options", [{"accumulate": 3}, {"recompute": True}], ids=str)
def test_ways_to_save_memory_change_no_weight(tiny, tmp_path, options):
    plain, thrifty = trained(tmp_path / "a", tiny), trained(tmp_path / "b", tiny, **options)
    assert all(torch.allclose(plain[name], thrifty[name], atol=1e-5) for name in plain)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"minutes": float("nan")}, "minutes must be 0 or more, got nan"),
        ({"minutes": -1.0}, "minutes must be 0 or more"),
        ({"save_minutes": float("nan")}, "save_minutes must be above 0, got nan"),
        ({"accumulate": 0}, "accumulate must be above 0"),
        ({"workers": -1}, "workers must be 0 or more"),
        ({"seed": 2**63}, "seed must lie in"),
        ({"max_bad": float("nan")}, "max_bad is a share of 0 to 1, got nan"),
        ({"max_bad": 5.0}, "max_bad is a share"),
    ],
)
def test_senseless_options_are_refused(wrong, told):
    with pytest.raises(ValueError, match=told):
        RunSpec(**wrong) if "max_bad" not in wrong else JobSpec(stage="a", out=Path(), **wrong)


def test_a_batch_that_cannot_be_shared_is_refused(tiny, tmp_path):
    with pytest.raises(ValueError, match=r"batch of 3 .* must be one of \[1, 3\]"):
        tiny_trainer(tmp_path, tiny, accumulate=2)


def test_checkpoints_kept_are_the_last_and_the_best(tiny, tmp_path):
    spec = with_steps(presets.tiny().stages[0], 6)
    mix = Mix(Still(), spec, seed=0, steps=6)
    data = Data(mix, tiny.encoder, validation=Mix(Still(), spec, seed=1, steps=1))
    run = RunSpec(workers=0, save_minutes=1e-6, keep=2)
    torch.manual_seed(0)
    trainer = Trainer(Stage(spec), data, tmp_path, run)
    measured = iter([5.0, 1.0, 4.0, 3.0, 2.0, 6.0])
    real = trainer.validated()
    assert real is not None and real == trainer.validated() > 0
    trainer.validated = lambda: next(measured)
    trainer.run()
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-00000002", "step-00000005", "step-00000006"]
    (tmp_path / "checkpoints" / kept[0] / "facts.json").write_text("")  # as a full disk leaves it
    assert getattr(best(tmp_path), "name", None) == kept[1]
