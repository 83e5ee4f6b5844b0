from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from imagen_video.data.stickers.solid import FLATNESS, SPACING, cast, membrane, solid_view
from imagen_video.data.stickers.sprites import sprite

RADIUS = 0.3


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMAGEN_VIDEO_CACHE", str(tmp_path_factory.mktemp("cache")))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as a data worker renders
        yield
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def disc():
    at = (torch.arange(96) + 0.5) / 96 - 0.5
    return ((at[:, None] ** 2 + at**2) < RADIUS**2).float()


def test_a_disc_swells_to_an_ellipsoid(disc):
    rise = membrane(disc)
    at = (torch.arange(96) + 0.5) / 96 - 0.5
    expected = ((RADIUS**2 - at[:, None] ** 2 - at**2) / 4).clamp(min=0)
    assert (rise - expected).abs().max() < 0.12 * RADIUS**2 / 4


@pytest.mark.parametrize("degrees", [0, 30, 60, 90])
def test_silhouette_of_the_turned_ellipsoid(disc, degrees):
    angle = np.deg2rad(degrees)
    _, _, hit = cast(4 * FLATNESS**2 * membrane(disc), angle)
    half = hit[:, 48].sum() / 96 / 2
    expected = RADIUS * np.hypot(np.cos(angle), FLATNESS * np.sin(angle))
    assert float(half) == pytest.approx(expected, abs=0.02)
    assert float(hit[48].sum() / 96 / 2) == pytest.approx(RADIUS, abs=0.02)


def test_the_front_moves_to_the_right(disc):
    squares = 4 * FLATNESS**2 * membrane(disc)
    where, _, hit = cast(squares, np.deg2rad(20))
    assert bool(hit[48, 48]) and where[48, 48] < -0.03  # what was left of the middle came there
    where, _, _ = cast(squares, np.deg2rad(-20))
    assert where[48, 48] > 0.03


def test_seen_from_the_front_it_is_the_drawing():
    front, flat = solid_view("cat", "3D render", 0, 96), sprite("cat", "3D render", 96)
    both = ((front[3] > 0.5) & (flat[3] > 0.5)).sum() / ((front[3] > 0.5) | (flat[3] > 0.5)).sum()
    assert both > 0.93
    assert (front - flat)[:3].abs().mean() < 0.05


def test_seen_from_behind_it_is_mirrored():
    half = round(180 / SPACING)
    front, back = solid_view("cat", "3D render", 0, 48), solid_view("cat", "3D render", half, 48)
    assert torch.equal(back, front.flip(-1))
    for step in (5, 20, 50):
        around = solid_view("cat", "3D render", step + 2 * half, 48)
        assert torch.equal(around, solid_view("cat", "3D render", step, 48))


@pytest.mark.parametrize("step", [0, 12, 30, 36])
def test_views_agree_between_sizes(step):
    large = F.avg_pool2d(solid_view("cat", "3D render", step, 384)[None], 8)[0]
    small = solid_view("cat", "3D render", step, 48)
    assert (large - small).square().mean().sqrt() < 0.06


def test_views_follow_each_other_smoothly():
    views = [solid_view("cat", "3D render", step, 48) for step in range(36)]
    jumps = [(b - a).square().mean().sqrt() for a, b in pairwise(views)]
    assert max(jumps) < 0.12
