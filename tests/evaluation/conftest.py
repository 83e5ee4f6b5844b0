"""What several tests of evaluation begin with."""

import functools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from imagen_video.cli import main
from imagen_video.evaluation import asked


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    tiny.save_pretrained(path)
    return path


@pytest.fixture(scope="module", autouse=True)
def loaded_once() -> Iterator[None]:
    """Networks that look at videos: nearly every test asks for the same."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("frame_extractor", "clip_extractor", "load_encoder"):
            patch.setattr(asked, name, functools.cache(getattr(asked, name)))
        yield


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def inside(monkeypatch, capsys):
    """The same command in this process, which has torch loaded already."""

    def run_inside(*words) -> Done:
        monkeypatch.setattr(sys, "argv", ["imagen-video", "evaluate", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        return Done(code, *capsys.readouterr())

    return run_inside
