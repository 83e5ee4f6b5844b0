"""Matching of blocks: what moved is found where it is half-way, and what stood stays."""

import pytest
import torch

from imagen_video.data.stickers import render, scene_for
from imagen_video.motion import between
from imagen_video.video import VideoFormat, to_float


def square(top: int, left: int) -> torch.Tensor:
    """A bright square with a dark corner on a grey frame of 24x40."""
    frame = torch.zeros(1, 3, 24, 40)
    frame[..., top : top + 8, left : left + 8] = 0.8
    frame[..., top : top + 3, left : left + 3] = -0.8
    return frame


@pytest.mark.parametrize("step", [(0, 2), (0, -6), (4, 0), (-2, 4)])
def test_a_moved_thing_is_found_half_way(step):
    here = square(8, 16)
    before, after = square(8 - step[0], 16 - step[1]), square(8 + step[0], 16 + step[1])
    mixed, change = between(before, after, 0.5)
    blended = (before + after) / 2
    assert (mixed - here).square().mean() < 0.05 * (blended - here).square().mean()
    assert change.square().mean() < 0.05 * (after - before).square().mean()


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_any_share_of_the_way(share):
    before, after = square(8, 10), square(8, 18)
    mixed, _ = between(before, after, share)
    here = square(8, 10 + round(8 * share))
    blended = torch.lerp(before, after, share)
    assert (mixed - here).square().mean() < 0.1 * (blended - here).square().mean()


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (24, 40), (27, 45)])
def test_what_stands_still_is_kept_at_any_size(size):
    frame = torch.rand(2, 3, *size)
    mixed, change = between(frame, frame, 0.5)
    assert torch.allclose(mixed, frame, atol=1e-5)
    assert change.abs().max() < 1e-5


def test_sprites_are_followed_better_than_blended():
    format = VideoFormat(32, 48, 80, 6.0)
    for motion in ("moving left to right", "bouncing", "falling"):
        scene = scene_for(concept="cat", background="blue", motion=motion, seed=5)
        truth = to_float(render(scene, format))
        mixed, _ = between(truth[:-2:2], truth[2::2], 0.5)
        blended = (truth[:-2:2] + truth[2::2]) / 2
        error, rival = ((v - truth[1:-1:2]).square().mean() for v in (mixed, blended))
        assert error < 0.5 * rival, motion
