"""Optimizers besides AdamW: they learn, go on where they stopped, and are sharded."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_distributed import close, train  # pyright: ignore
from tiny_trainer import Still  # pyright: ignore

from imagen_video import presets
from imagen_video.data.mix import Mix
from imagen_video.stage import Stage
from imagen_video.training.ahead import Data
from imagen_video.training.run import RunSpec
from imagen_video.training.trainer import Trainer


@pytest.mark.parametrize("name", ["adafactor", "adamw8bit"])
@pytest.mark.filterwarnings("ignore")  # torchao's own, when it is imported
@torch.compiler.set_stance("force_eager")  # compiling torchao's step takes minutes here
def test_other_optimizers_learn_and_go_on_where_they_stopped(tiny, tmp_path, name):
    if name == "adamw8bit":  # no part of the test extra: transformers imports it, and it is loud
        pytest.importorskip("torchao")

    def trainer(folder: Path, **options) -> Trainer:
        base = presets.tiny().stages[0]
        spec = replace(base, train=replace(base.train, steps=8, optimizer=name))
        torch.manual_seed(0)
        data = Data(Mix(Still(), spec, seed=0, steps=8), tiny.encoder)
        return Trainer(Stage(spec), data, folder, RunSpec(workers=0, **options))

    whole = trainer(tmp_path / "whole")
    whole.run()
    assert type(whole.optimizer).__name__.lower() == name
    kinds = {type(v).__name__ for state in whole.optimizer.state.values() for v in state.values()}
    assert ("OptimState8bit" in kinds) == (name == "adamw8bit")
    first = trainer(tmp_path / "parts", save_minutes=1e-6)
    real, four = first.train_on, iter(range(4))

    def stopping(parts, watch):
        if next(four, None) is None:
            first.saver.finish()
            raise KeyboardInterrupt
        return real(parts, watch)

    first.train_on = stopping
    with pytest.raises(KeyboardInterrupt):
        first.run()
    rest = trainer(tmp_path / "parts")
    assert rest.step == 4
    rest.run()
    again, once = rest.stage.unet.state_dict(), whole.stage.unet.state_dict()
    assert all(torch.equal(again[n], once[n]) for n in once)


@pytest.mark.slow
def test_sharded_adafactor_is_adafactor(tmp_path, monkeypatch):
    monkeypatch.setenv("OPTIMIZER", "adafactor")
    alone = train(tmp_path / "alone", ranks=1, steps=5)
    train(tmp_path / "four", ranks=4, shards=2, steps=5, stop=3)
    found = train(tmp_path / "four", ranks=1, steps=5)
    assert found == pytest.approx(alone, abs=1e-4)
    close(tmp_path / "four", tmp_path / "alone")
