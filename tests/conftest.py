"""Shared pieces: the tiny cascade, freshly initialised but with nothing left at zero."""

import gc
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from imagen_video.cascade import Cascade

if "PYTEST_XDIST_WORKER" in os.environ:  # a core each, for the programs it starts too
    import torch  # not in the process that starts the workers, which runs no test

    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    # What all these programs import is compiled once.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False

gc.disable()  # what is imported stays: looking for garbage in it took a quarter of the time


def pytest_collection_finish() -> None:
    """From here on garbage is looked for, but among what is imported."""
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: with two workers none is to wait for the other in the end."""
    order = ("training", "evaluation", "web")
    items.sort(key=lambda item: [folder not in item.path.parts for folder in order])


@pytest.fixture(scope="session")
def tiny() -> "Cascade":
    """All seven tiny stages in float32, random, with the embedded text encoder."""
    import torch

    from imagen_video import presets
    from imagen_video.cascade import Cascade
    from imagen_video.stage import Stage
    from imagen_video.text.encoder import load_encoder

    spec = presets.tiny()
    torch.manual_seed(0)
    stages = [Stage(stage) for stage in spec.stages]
    for stage in stages:
        stage.unet.requires_grad_(False).eval()
        for parameter in stage.unet.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return Cascade(spec, stages, load_encoder(spec.text))


@dataclass
class Done:
    """How a command ended, and what it said."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def inside(monkeypatch, capsys):
    """imagen-video with these words in this process, which has torch loaded already."""
    from imagen_video.cli import main

    def run_inside(*words) -> Done:
        monkeypatch.setattr(sys, "argv", ["imagen-video", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        return Done(code, *capsys.readouterr())

    return run_inside
