"""The mark outlives what videos go through, is not seen, and is found only where it is."""

import math

import pytest
import torch
from attacks import coded, half

from imagen_video import watermark
from imagen_video.data.clips import Crop
from imagen_video.data.stickers.source import StickerSource
from imagen_video.video import VideoFormat, VideoWriter, read_video
from imagen_video.watermark import detect, detect_file, mark, surfaces, waves

SIZE = (192, 320)


def sticker(frames=12, size=SIZE):
    format = VideoFormat(128, *size, 24.0)
    crop = Crop(40, 0, 0, frames, *size)
    return StickerSource(1, part="test").clip(0, format, crop).video


def shapes(frames=12, size=SIZE):
    """A disc that moves over a slanted ground, and a grid of lines."""
    y, x = torch.meshgrid(*(torch.arange(float(side)) for side in size), indexing="ij")
    ground = 120 + 0.2 * x + 20 * ((x % 40 < 2) | (y % 40 < 2))
    clip = [
        ground + 80 * ((x - 60 - 6 * i).square() + (y - 90).square() < 2500) for i in range(frames)
    ]
    return torch.stack(clip)[:, None].repeat(1, 3, 1, 1).to(torch.uint8)


def crop(frames):
    return frames[:, :, 13 : 13 + 172, 7 : 7 + 288]


def attacks(folder):
    return {
        "nothing": lambda frames: frames,
        "crf 28": lambda frames: coded(frames, folder),
        "half": half,
        "crop": crop,
        "all three": lambda frames: coded(half(crop(frames)), folder),
    }


@pytest.mark.parametrize("clip", [sticker, shapes])
def test_the_mark_is_found_after_every_attack_and_only_if_it_is_there(clip, tmp_path):
    frames = clip()
    marked = mark(frames)
    for name, attack in attacks(tmp_path).items():
        found = detect(attack(marked))
        assert found.found, (name, found)
        expected = 0.5 if name in ("half", "all three") else 1
        assert found.scale == pytest.approx(expected, rel=0.03)
        assert not detect(attack(frames)).found
    assert not detect(marked, key=b"another key").found


@pytest.mark.parametrize(
    ("size", "least"), [((768, 1280), 49), ((192, 320), 43.9), ((24, 40), 43.5)]
)
def test_it_costs_little(size, least):
    grey = torch.full((2, 3, *size), 128, dtype=torch.uint8)
    marked = mark(grey)
    assert torch.equal(marked[0], marked[1])
    error = (marked.float() - 128).square().mean()
    assert 10 * math.log10(255**2 / error) > least
    assert grey.eq(128).all()


def test_black_stays_black_and_white_white():
    for level in (0, 255):
        marked = mark(torch.full((1, 3, *SIZE), level, dtype=torch.uint8))
        assert (marked.int() - level).abs().max() <= 6
        assert detect(marked).found


def test_a_file_of_one_frame_and_one_of_24x40(tmp_path):
    for frames, size in ((1, SIZE), (16, (24, 40))):
        path = tmp_path / "a.mp4"
        with VideoWriter(path, height=size[0], width=size[1], fps=6.0) as writer:
            writer.write(mark(sticker(frames, size)))
        assert detect_file(path).found
        assert torch.equal(read_video(path).frames[:1], read_video(path, max_frames=1).frames)


def test_the_statistic_is_what_the_theory_says():
    """Over keys, at every scale and offset: variance one, and tails below the bound."""
    frames = sticker(4)
    z = torch.cat([z.flatten() for i in range(6) for _, z in surfaces(frames, key=bytes([i]))])
    assert z.numel() > 3e6
    assert z.square().mean() == pytest.approx(1, abs=0.01)
    for level in (1, 2, 3, 4):
        share = float((z > level).float().mean())
        assert share <= math.exp(-(level**2) / 2)
        if level < 4:
            assert share == pytest.approx(math.erfc(level / math.sqrt(2)) / 2, rel=0.1)


def test_p_counts_every_place_that_was_tried():
    found = watermark.Detection(7.0, 1_000_000, 1.0)
    assert found.p == pytest.approx(1e6 * math.exp(-24.5)) and not found.found
    assert watermark.Detection(7.0, 1, 1.0).found
    assert watermark.Detection(-1.0, 1, 1.0).p == 1
    frames = sticker(1)
    assert detect(frames).tried == sum(z.numel() for _, z in surfaces(frames))


def test_the_key_stays_the_key():
    """Videos that were marked are to be found for good."""
    key = waves()
    assert len(key.phase) == 198
    assert [(key.y[i], key.x[i]) for i in (0, -1)] == [(-11, 1), (12, 0)]
    phases = [key.phase[i].item() for i in (0, 1, 2, -1)]
    assert phases == pytest.approx([3.489913, 5.441610, 4.217641, 1.149256], abs=1e-5)
