"""The data set of `shades`, and where its bad samples go."""

import pytest
from shades import write_image, write_video

from imagen_video.data.bad_samples import BadSamples


@pytest.fixture
def folder(tmp_path):
    """Three videos and five images, captioned by their shade."""
    root = tmp_path / "set"
    for i in range(3):
        write_video(root / "videos" / f"{i}.mp4", 20 * i + 40)
        (root / "videos" / f"{i}.txt").write_text(f"video {20 * i + 40}\n")
    for i in range(5):
        write_image(root / f"{i}.png", 20 * i + 120)
        (root / f"{i}.txt").write_text(f"image {20 * i + 120}")
    (root / "notes.md").write_text("no sample")
    return root


@pytest.fixture
def bad(tmp_path):
    return BadSamples(tmp_path / "bad_samples.jsonl", limit=0.5)
