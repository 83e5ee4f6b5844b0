import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from imagen_video.data.stickers import (
    Crop,
    StickerWorld,
    prerender,
    render,
    scene_for,
    sprites,
    words,
)
from imagen_video.data.stickers.backgrounds import TEXTURE_KINDS, Background, bars, share
from imagen_video.data.stickers.concepts import COLOURS
from imagen_video.data.stickers.drawings import Sprite
from imagen_video.data.stickers.motions import Track
from imagen_video.data.stickers.preview import of_all_families, write_sheet
from imagen_video.data.stickers.scene import CLIP_SHARES, Actor
from imagen_video.video import VideoFormat

BASE = VideoFormat(16, 24, 40, 3.0)
SEEN = ("cat", "key", "turtle", "apple")
WORLD = StickerWorld(4, concepts=SEEN)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMAGEN_VIDEO_CACHE", str(tmp_path_factory.mktemp("cache")))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as a data worker renders
        yield
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def one_of_each():
    """The first clip of every family."""
    found = {}
    for index in range(200):
        scene = WORLD.clip(index)
        found.setdefault(scene.attributes.family, scene)
    assert set(found) == set(CLIP_SHARES)
    return found


def psnr(one, other):
    return float(10 * torch.log10(255**2 / (one.float() - other.float()).square().mean()))


def centre(frames, colour):
    """Mean place (y, x) and area of what differs from a flat ground, by frame."""
    ground = torch.tensor(COLOURS[colour])[:, None, None]
    apart = ((frames.float() - ground).abs().amax(1) > 30).float()
    y = torch.arange(frames.shape[2])[:, None]
    x = torch.arange(frames.shape[3])
    area = apart.sum((1, 2))
    return (apart * y).sum((1, 2)) / area, (apart * x).sum((1, 2)) / area, area


def shown(motion, concept="turtle"):
    scene = scene_for(concept=concept, background="blue", motion=motion, seed=3)
    return centre(render(scene, VideoFormat(16, 48, 80, 3.0)), "blue")


@pytest.mark.parametrize("family", CLIP_SHARES)
def test_two_sizes_show_the_same_clip(one_of_each, family):
    scene = one_of_each[family]
    small, large = render(scene, BASE), render(scene, VideoFormat(16, 96, 160, 3.0))
    assert small.shape == (16, 3, 24, 40) and small.dtype == torch.uint8
    assert psnr(F.avg_pool2d(large.float(), 4), small) > 38
    huge = render(scene, VideoFormat(1, 768, 1280, 3.0))
    assert psnr(F.avg_pool2d(huge.float(), 8), large[:1]) > 38


@pytest.mark.parametrize("family", CLIP_SHARES)
def test_equal_times_are_equal_frames(one_of_each, family):
    fast = render(one_of_each[family], VideoFormat(128, 24, 40, 24.0))
    assert torch.equal(fast[::8], render(one_of_each[family], BASE))


@pytest.mark.parametrize("family", CLIP_SHARES)
def test_a_crop_is_a_part_of_the_whole(one_of_each, family):
    format = VideoFormat(24, 96, 160, 6.0)
    whole = render(one_of_each[family], format)
    for box in (Crop(3, 20, 50, 9, 40, 70), Crop(0, 0, 0, 24, 96, 160), Crop(23, 95, 0, 1, 1, 160)):
        part = whole[box.frame :, :, box.top :, box.left :]
        part = part[: box.frames, :, : box.height, : box.width]
        assert torch.equal(part, render(one_of_each[family], format, crop=box))


def test_a_crop_must_lie_within():
    with pytest.raises(ValueError, match="choose a box inside it"):
        render(WORLD.clip(0), BASE, crop=Crop(0, 0, 0, 16, 24, 41))


def test_any_shape_of_frame_shows_the_whole_object():
    scene = scene_for(
        concept="apple", background="blue", motion="standing still", style="flat vector art"
    )
    for height, width in ((40, 24), (24, 40), (24, 80), (8, 12)):
        y, x, area = centre(render(scene, VideoFormat(1, height, width, 1.0)), "blue")
        assert area > 4
        assert 0 < y < height - 1 and 0 < x < width - 1


def test_directions_on_the_screen():
    assert (shown("moving left to right")[1].diff() > -0.1).all()
    assert (shown("moving right to left")[1].diff() < 0.1).all()
    assert (shown("falling")[0].diff() > -0.1).all()
    assert (shown("rising")[0].diff() < 0.1).all()
    for motion, axis in (("moving left to right", 1), ("falling", 0)):
        place = shown(motion)[axis]
        assert place[-1] - place[0] > 0.3 * (48, 80)[axis]
    assert shown("growing")[2][-1] > 2.5 * shown("growing")[2][0]
    assert shown("shrinking")[2][0] > 2.5 * shown("shrinking")[2][-1]
    still = render(scene_for(concept="cat", motion="standing still"), BASE)
    assert torch.equal(still, still[:1].expand_as(still))
    height = shown("bouncing")[0]
    assert (height.diff() > 0.5).any() and (height.diff() < -0.5).any()


@pytest.mark.parametrize(("motion", "turn"), [("clockwise", -1), ("counterclockwise", 1)])
def test_a_spin_turns_as_the_viewer_sees_it(motion, turn):
    scene = scene_for(concept="key", motion=f"spinning {motion}")
    (actor,) = scene.actors
    assert np.sign(actor.track.angle[1] - actor.track.angle[0]) == -turn
    sign = np.sign(actor.track.angle[1] - actor.track.angle[0])

    def at(angle):
        track = Track(size=(0.5, 0.5), angle=(angle, angle))
        one = replace(scene, actors=(Actor(Sprite("key", "3D render"), track),))
        return render(one, VideoFormat(1, 96, 96, 1.0))[0]

    assert psnr(torch.rot90(at(0.0), turn, (1, 2)), at(90.0 * sign)) > 45


def test_the_camera_moves_against_what_it_sees():
    def place(motion):
        scene = scene_for(concept="turtle", motion=motion, background="blue and white striped")
        scene = replace(scene, background=Background.named("blue"))  # only the object shows
        assert scene.camera.x[0] * -1 == scene.camera.x[1]
        return centre(render(scene, VideoFormat(16, 48, 80, 3.0)), "blue")[1]

    assert (place("camera panning right").diff() < 0.1).all()
    assert (place("camera panning left").diff() > -0.1).all()


def test_pairs_keep_their_relation():
    for index in range(400):
        scene = WORLD.clip(index)
        if scene.attributes.family != "pair":
            continue
        first, second = (actor.track.at(np.linspace(0, 5, 6)) for actor in scene.actors)
        holds = {
            "left of": first.x < second.x,
            "right of": first.x > second.x,
            "above": first.y < second.y,
            "below": first.y > second.y,
        }
        assert holds[scene.attributes.relation].all()


@pytest.mark.parametrize("kind", TEXTURE_KINDS)
def test_grounds_are_functions_of_the_place(kind):
    ground = Background(kind, "red", "white", 0.4, 0.3)
    pixel = torch.tensor(1 / 96)
    x = torch.linspace(-0.8, 0.8, 33)[None]
    y = torch.linspace(-0.5, 0.5, 21)[:, None]
    whole = share(ground, x, y, pixel)
    assert whole.shape == (21, 33) and whole.min() >= 0 and whole.max() <= 1
    assert torch.equal(whole[5:9, 4:30], share(ground, x[:, 4:30], y[5:9], pixel))


def test_bars_are_half_and_half_and_spread_over_a_pixel():
    at = torch.arange(4000) / 4000
    assert bars(at, 0.25, torch.tensor(0.01)).mean() == pytest.approx(0.5, abs=1e-3)
    edge = bars(torch.tensor([0.0575, 0.0625, 0.0675]), 0.25, torch.tensor(0.01))
    assert edge.tolist() == pytest.approx([0, 0.5, 1], abs=1e-4) or edge.tolist() == pytest.approx(
        [1, 0.5, 0], abs=1e-4
    )


def test_halvings_are_means():
    texels = np.random.default_rng(0).uniform(0, 255, (96, 192, 2)).astype(np.float32)
    sizes = sprites.halvings(texels)
    assert list(sizes) == ["96", "48", "24"]
    means = texels.reshape(24, 4, 48, 4, 2).mean((1, 3))
    assert np.abs(sizes["24"] - means).max() <= 0.51


def test_words_appear_letter_by_letter():
    widths = []
    for shown_letters in range(5):
        view = words.word_view("STAR", "pixel lettering", "red", shown_letters, 48)
        assert view.shape[-1] == pytest.approx(48 * words.aspect("STAR", "pixel lettering"))
        assert (view[3] >= view[0]).all()
        columns = view[3].amax(0) > 0.5
        widths.append(int(columns.sum()))
    assert widths[0] == 0 and all(a < b for a, b in pairwise(widths))


def test_prerendered_sprites_need_no_rasteriser(tmp_path, monkeypatch):
    scene = scene_for(concept="apple", motion="rising")
    prerender(tmp_path, concepts=["apple"], styles=["3D render"])
    monkeypatch.setenv("IMAGEN_VIDEO_CACHE", str(tmp_path))
    monkeypatch.setattr(sprites, "TEXTURES", sprites.TextureCache(2**20))
    for tool in ("resvg_py", "PIL"):
        monkeypatch.setitem(sys.modules, tool, None)
    words.letters.cache_clear()
    assert render(scene, BASE).float().std() > 5
    assert set(words.letters("pixel lettering", 24)) == set(words.LETTERS)


def test_texture_cache_forgets_the_oldest():
    cache = sprites.TextureCache(max_bytes=2 * 4 * 100)
    made = []

    def make(name):
        made.append(name)
        return torch.zeros(100)

    for name in "ababcab":
        cache.get(make, name)
    assert made == ["a", "b", "c", "a", "b"]
    assert cache.bytes == 800


def test_contact_sheet(tmp_path):
    from PIL import Image

    scenes = of_all_families(WORLD)[:2]
    rows = [(scene.caption, render(scene, VideoFormat(4, 24, 40, 1.0))) for scene in scenes]
    write_sheet(tmp_path / "sheet.png", rows)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (4 * 42, 2 * (24 + 16))
