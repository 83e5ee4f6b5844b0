"""What several tests of evaluation begin with."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from imagen_video.cli import main


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    tiny.save_pretrained(path)
    return path


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
