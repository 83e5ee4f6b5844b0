"""What several tests of evaluation begin with."""

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

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


@pytest.fixture
def inside(inside):
    """Evaluate in this process."""
    return functools.partial(inside, "evaluate")
