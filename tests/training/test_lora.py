"""Low-rank adapters: they change nothing at first, then they alone change, and export merges."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from test_distributed import train  # pyright: ignore

from imagen_video import presets
from imagen_video.stage import Stage
from imagen_video.training.checkpoint import facts_of, latest
from imagen_video.training.export import export_cascade, export_stage
from imagen_video.training.job import JobSpec, train_stage
from imagen_video.training.lora import Lora
from imagen_video.training.run import RunSpec
from imagen_video.unet.inputs import Conditioning
from imagen_video.weights import load_stage, save_stage

STEPS = 6


@pytest.fixture(scope="module")
def base(tiny, tmp_path_factory) -> Path:
    """A trained stage's folder, as far as adapters can tell."""
    folder = tmp_path_factory.mktemp("base")
    save_stage(tiny.stages[0], folder)
    return folder


def fine_tune(base: Path, out: Path, *, lora: int = 2, steps: int = STEPS, **options) -> int:
    job = JobSpec(stage="base", out=out, lora=lora, init_from=base, steps=steps)
    return train_stage(presets.tiny(), job, RunSpec(workers=0, **options))


@pytest.fixture(scope="module")
def tuned(base, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("tuned")
    assert fine_tune(base, out) == STEPS
    return out


def seen_by(unet: torch.nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(1, 4, 3, 8, 12, generator=generator)
    text = torch.randn(1, 1, 5, 384, generator=generator)
    cond = Conditioning(text, text[..., 0] > -9, torch.tensor([True]))
    with torch.no_grad():
        return unet(z, torch.zeros(1), cond)


@pytest.mark.parametrize("stage", [0, 4, 6], ids=["attention", "convolution", "folded"])
def test_fresh_adapters_change_nothing(tiny, tmp_path, stage):
    spec = tiny.stages[stage].spec
    save_stage(tiny.stages[stage], tmp_path)
    lora = Lora.over(tmp_path, 3)
    unet, plain = lora.load_base(spec).unet, load_stage(tmp_path).unet
    lora.adapt(unet)
    names = {name for name, weight in unet.named_parameters() if weight.requires_grad}
    assert names and all(".lora_" in name for name in names)
    assert sum(w.numel() for n, w in unet.named_parameters() if n not in names) == sum(
        w.numel() for w in plain.parameters()
    )
    if stage == 0:
        assert torch.equal(seen_by(unet), seen_by(plain))


def test_adapters_are_saved_apart_and_peft_reads_them(base, tuned, tmp_path):
    assert {path.name for path in (tuned / "adapter").iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors"
    }  # fmt: skip
    assert not (tuned / "model.safetensors").exists()
    small = (tuned / "adapter" / "adapter_model.safetensors").stat().st_size
    assert small < 0.2 * (base / "model.safetensors").stat().st_size
    before = seen_by(load_stage(base).unet)
    adapted = PeftModel.from_pretrained(load_stage(base).unet, str(tuned / "adapter"))
    after = seen_by(adapted)
    assert (after - before).abs().max() > 1e-3
    assert export_stage(tuned, tmp_path, dtype=torch.float32) == STEPS
    assert torch.allclose(seen_by(load_stage(tmp_path).unet), after, atol=1e-5)


def test_the_weights_below_are_as_they_were(base, tuned):
    whole = load_file(base / "model.safetensors")
    for name, average in load_file(tuned / "adapter" / "adapter_model.safetensors").items():
        assert ".lora_" in name and torch.isfinite(average).all()
    (file,) = latest(tuned).glob("*.safetensors")
    assert not {name.split("/", 1)[1] for name in load_file(file)} & whole.keys()


def test_a_cascade_is_exported_with_adapters_merged(tiny, tuned, tmp_path):
    runs = tmp_path / "runs"
    for stage in tiny.stages[1:]:
        save_stage(stage, runs / stage.spec.name)
    (runs / "base").symlink_to(tuned)
    export_cascade(runs, presets.tiny(), tmp_path / "out", dtype=torch.float32)
    export_stage(tuned, tmp_path / "base", dtype=torch.float32)
    exported, merged = (load_stage(tmp_path / name).unet for name in ("out/base", "base"))
    assert torch.equal(seen_by(exported), seen_by(merged))


def test_a_run_that_goes_on_ends_as_an_undisturbed_one(base, tuned, tmp_path, monkeypatch):
    from imagen_video.training.trainer import Trainer

    class Stopped(Exception):
        pass

    step = Trainer.train_on

    def stopping(trainer, parts, watch):
        if trainer.step == 3:
            trainer.saver.finish()
            raise Stopped
        return step(trainer, parts, watch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_on", stopping)
        with pytest.raises(Stopped):
            fine_tune(base, tmp_path, save_minutes=1e-6)
    saved, done = facts_of(latest(tmp_path))["step"], []
    assert 0 < saved < STEPS
    torch.manual_seed(9)  # what was drawn before matters no more

    def noting(trainer, parts, watch):
        done.append(trainer.step)
        return step(trainer, parts, watch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_on", noting)
        fine_tune(base, tmp_path)
    assert done == [*range(saved, STEPS)]
    ends = [next(latest(out).glob("*.safetensors")) for out in (tuned, tmp_path)]
    first, second = map(load_file, ends)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_two_sharded_processes_train_adapters_as_one(base, tmp_path):
    more = ["--lora", "2", "--init-from", str(base)]
    one = train(tmp_path / "one", *more, ranks=1, steps=8)
    two = train(tmp_path / "two", *more, ranks=2, steps=8)
    assert two == pytest.approx(one, abs=1e-4) and len(two) == 8
    first, second = (
        load_file(tmp_path / name / "adapter" / "adapter_model.safetensors")
        for name in ("one", "two")
    )
    assert all(torch.allclose(first[name], second[name], atol=1e-3) for name in first)


def test_weights_that_changed_are_not_merged(tiny, base, tmp_path):
    below, out = tmp_path / "below", tmp_path / "out"
    save_stage(tiny.stages[0], below)
    fine_tune(below, out, steps=1)
    save_stage(Stage(tiny.stages[0].spec), below)
    with pytest.raises(ValueError, match="has changed since adapters were trained over it"):
        export_stage(out, tmp_path / "merged")


def test_what_does_not_fit_is_refused(tiny, base, tuned, tmp_path):
    with pytest.raises(ValueError, match="rank of adapters must be at least 1, got 0"):
        fine_tune(base, tmp_path, lora=0)
    job = JobSpec(stage="base", out=tmp_path, lora=2)
    with pytest.raises(ValueError, match="give --init-from FOLDER"):
        train_stage(presets.tiny(), job, RunSpec(workers=0))
    with pytest.raises(
        ValueError, match=r"adapters of rank 2 over weights .*, not adapters of rank 3"
    ):
        fine_tune(base, tuned, lora=3)
    other = Stage(tiny.stages[0].spec)
    save_stage(other, tmp_path / "other")
    with pytest.raises(ValueError, match="give the same --lora and --init-from"):
        fine_tune(tmp_path / "other", tuned)
    save_stage(tiny.stages[1], tmp_path / "tsr1")
    with pytest.raises(ValueError, match="another network than stage 'base'"):
        fine_tune(tmp_path / "tsr1", tmp_path / "out")
