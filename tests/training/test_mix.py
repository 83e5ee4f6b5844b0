"""What a batch is made of."""

from dataclasses import replace

import pytest
import torch
from tiny_trainer import Still  # pyright: ignore

from imagen_video import presets
from imagen_video.data.clips import Crop, Example
from imagen_video.data.mix import Mix
from imagen_video.data.stickers.source import StickerSource
from imagen_video.video import VideoFormat


def test_a_stride_shows_every_nth_frame_and_tells_which():
    spec = presets.mini().stages[0]
    strided = replace(spec, train=replace(spec.train, stride=4))
    for step in range(4):
        whole, some = (Mix(StickerSource(0), s, seed=0, steps=4)[step] for s in (spec, strided))
        assert whole.frame_index.tolist() == list(range(16))
        assert some.frame_index.diff().unique().tolist() == [4]
        clips = some.is_video
        assert torch.equal(some.video[clips], whole.video[clips][:, some.frame_index])
        assert len(some.captions[-1]) == some.video.shape[1] == 4


@pytest.mark.parametrize("stage", ["base", "ssr1"])
def test_what_a_batch_says_is_known_without_its_pixels(stage):
    mix = Mix(StickerSource(0), presets.mini().stage(stage), seed=0, steps=3)
    for step in range(3):
        assert set(mix.captions(step)) == {text for row in mix[step].captions for text in row}


def test_crops_of_a_clip_share_place_and_low_resolution_grid():
    spec = presets.tiny().stages[3]
    spec = replace(spec, train=replace(spec.train, crop=(16, 16), frames=2))
    seen: list[Crop] = []

    class Spy(Still):
        def clip(self, index: int, format: VideoFormat, crop: Crop) -> Example:
            seen.append(crop)
            return super().clip(index, format, crop)

    mix = Mix(Spy(), spec, seed=0, steps=8)
    for step in range(8):
        batch = mix[step]
        assert batch.video.shape == (3, 2, 3, 16, 16)
        assert torch.equal(batch.video, mix[step].video)
    assert all(crop.top % 2 == crop.left % 2 == 0 for crop in seen)
    assert len({(crop.top, crop.left) for crop in seen}) > 4
