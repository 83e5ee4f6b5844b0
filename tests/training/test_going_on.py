"""What a folder goes on with, and what it refuses."""

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_trainer import Still, tiny_trainer  # pyright: ignore

from imagen_video import presets
from imagen_video.data.clips import Crop, Example
from imagen_video.data.mix import Mix
from imagen_video.data.stickers.source import StickerSource
from imagen_video.files import Unreachable
from imagen_video.stage import Stage
from imagen_video.text.encoder import MiniLMEncoder
from imagen_video.training.ahead import Data
from imagen_video.training.checkpoint import facts_of, latest
from imagen_video.training.export import export_stage
from imagen_video.training.job import fit_text
from imagen_video.training.run import RunSpec, with_steps
from imagen_video.training.sheets import what_to_show
from imagen_video.training.trainer import Trainer
from imagen_video.video import VideoFormat


@pytest.fixture(scope="module")
def done(tiny, tmp_path_factory) -> Path:
    """A run of twelve steps that has ended; copied before anything is written there."""
    folder = tmp_path_factory.mktemp("done")
    assert tiny_trainer(folder, tiny).run() == 12
    return folder


def test_what_a_kill_during_a_save_left_over_is_cleared_away(tiny, tmp_path):
    half = tmp_path / "checkpoints" / ".step-00000001.part"
    half.mkdir(parents=True)
    (half / "shard.safetensors").write_bytes(b"half a checkpoint")
    (tmp_path / ".model.safetensors.1234.part").touch()
    assert tiny_trainer(tmp_path, tiny, steps=2).run() == 2
    assert not half.exists() and not list(tmp_path.glob(".*.part"))


def test_another_seed_or_network_does_not_resume(tiny, done):
    with pytest.raises(ValueError, match="seed 0, not 1"):
        tiny_trainer(done, tiny, seed=1)
    spec = presets.tiny().stages[1]
    mix = Mix(Still(), spec, seed=0, steps=3)
    with pytest.raises(
        ValueError, match=r"another stage \(name base, not tsr1; input None, not .*; and \d+ more\)"
    ):
        Trainer(Stage(spec), Data(mix, tiny.encoder), done, RunSpec(workers=0))


def test_another_spec_of_the_same_network_does_not_resume(tiny, done):
    """TSR-2 and TSR-3 have equal networks: going on as the wrong one would spoil both."""
    spec = with_steps(presets.tiny().stages[0], 12)
    longer = replace(spec, train=replace(spec.train, steps=14))
    for other, told in (
        (replace(spec, name="other"), "name base, not other"),
        (replace(spec, logsnr_shift=-1.0), "logsnr_shift -3.0, not -1.0"),
        (longer, "train.steps 12, not 14"),
    ):
        mix = Mix(Still(), other, seed=0, steps=3)
        with pytest.raises(ValueError, match=rf"trained as another stage \({told}\)"):
            Trainer(Stage(other), Data(mix, tiny.encoder), done, RunSpec(workers=0))


def test_other_data_does_not_go_on(tiny, done):
    """By another name it may be the same: what counts is how much of each source was shown."""
    trainer = tiny_trainer(done, tiny)
    spec, stickers = trainer.stage.spec, Mix(StickerSource(0), trainer.stage.spec, seed=0, steps=3)
    told = r"up to step 12 on nothing more, not on stickers.* \(\d+ clips and \d+ stills of it"
    with pytest.raises(ValueError, match=told):
        Trainer(Stage(spec), Data(stickers, tiny.encoder), done, RunSpec(workers=0))


def test_other_text_does_not_go_on(tiny, done):
    trainer = tiny_trainer(done, tiny)
    encoder = MiniLMEncoder(tiny.encoder.length + 1)
    with pytest.raises(ValueError, match="embeddings of minilm of 32 tokens, not of minilm of 33"):
        Trainer(trainer.stage, Data(trainer.data.mix, encoder), done, RunSpec(workers=0))


class Ending(Still):
    """A source that cannot be read after a while."""

    def __init__(self, error: Exception):
        self.error = error

    def clip(self, index: int, format: VideoFormat, crop: Crop) -> Example:
        if index > 12:
            raise self.error
        return super().clip(index, format, crop)


@pytest.mark.parametrize("kind", [ValueError, Unreachable])
def test_what_was_learned_is_saved_when_data_ends_the_run(tiny, tmp_path, kind):
    trainer = tiny_trainer(tmp_path, tiny)
    trainer.data.mix.source = Ending(kind("Connection reset by peer"))
    with pytest.raises(kind, match=r"^Connection reset by peer"):
        trainer.run()
    found = latest(tmp_path)
    assert found is not None and facts_of(found)["step"] == trainer.step > 2


class Deadly(Still):
    """A source that ends the process that reads it."""

    def clip(self, index: int, format: VideoFormat, crop: Crop) -> Example:
        signal.raise_signal(signal.SIGKILL)
        raise AssertionError


def test_what_is_held_out_is_read_apart_and_first(tiny, tmp_path):
    trainer = tiny_trainer(tmp_path, tiny, steps=2)
    stage = trainer.stage.spec
    trainer.data = replace(trainer.data, validation=Mix(Deadly(), stage, seed=0, steps=1))
    trainer.run_spec = replace(trainer.run_spec, workers=1)
    with pytest.raises(ValueError, match=r"DataLoader worker .*give the same command"):
        trainer.run()
    assert trainer.step == 0


def test_captions_to_fit_and_clips_to_show_are_read_apart(tiny):
    stage = tiny.stages[0]
    with pytest.raises(ValueError, match="DataLoader worker"):
        fit_text(stage, Mix(Deadly(), stage.spec, seed=0, steps=2), tiny.encoder, workers=1)
    with pytest.raises(ValueError, match="DataLoader worker"):
        what_to_show(stage.spec, Deadly(), stickers=False, workers=1)


@pytest.mark.parametrize("spoil", ["cut", "gone", "facts"])
def test_a_damaged_checkpoint_is_told_with_what_to_do(tiny, done, tmp_path, spoil):
    run = shutil.copytree(done, tmp_path / "run")
    newest = latest(run)
    assert newest is not None
    (shard,) = newest.glob("*.safetensors")
    if spoil == "facts":
        (newest / "facts.json").write_text("")
    elif spoil == "gone":
        shard.unlink()
    else:
        os.truncate(shard, 100_000)
    told = rf"{newest.name} is damaged \(.*\): remove that folder, and the run goes on"
    with pytest.raises(ValueError, match=told):
        tiny_trainer(run, tiny)
    with pytest.raises(ValueError, match=told):
        export_stage(run, tmp_path / "exported")
