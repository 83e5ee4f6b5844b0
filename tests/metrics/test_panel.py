"""The judges that come with the package."""

from itertools import count, islice

import pytest

from imagen_video.data.stickers import StickerWorld, render, scene_for
from imagen_video.data.stickers.concepts import COLOURS
from imagen_video.metrics.judge import Accuracy
from imagen_video.metrics.matcher import Matcher
from imagen_video.metrics.panel import MATCHER, SHIPPED, Panel, nearest_size
from imagen_video.video import VideoFormat


@pytest.fixture(scope="module")
def panel() -> Panel:
    return Panel.load(SHIPPED, COLOURS)


def test_they_are_as_good_as_they_must_be(panel):
    found = panel.accuracies(128, 768)
    assert {a.size for a in found.values()} == {"192x320"}
    shares = {name: a.right / a.of for name, a in found.items()}
    assert shares["background"] >= 0.97 and shares["motion"] >= 0.97
    assert shares["concept"] >= 0.95 and shares["style"] >= 0.90
    assert shares["rotation"] >= 0.97 and "3D against flat" in shares
    assert min(a.of for a in found.values()) >= 100
    assert {a.size for a in panel.accuracies(16, 24).values()} == {"24x40"}


def test_they_are_small():
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) <= 10e6


@pytest.mark.parametrize("size", [(24, 40), (192, 320)])
def test_they_tell_what_true_clips_show(panel, size):
    """As often as they say themselves: of 64 clips that training never drew."""
    world = StickerWorld(1, split="test")
    drawn = (world.clip(i) for i in count())
    scenes = list(islice((s for s in drawn if s.attributes.family == "flat"), 64))
    told = [panel(render(scene, VideoFormat(16, *size, 3.0))) for scene in scenes]
    for name, wrong in (("background", 0), ("motion", 1), ("concept", 3), ("style", 6)):
        right = [getattr(s.attributes, name) == t[name] for s, t in zip(scenes, told, strict=True)]
        assert right.count(False) <= wrong, name


def test_short_and_small_clips_are_asked_for_their_ground_alone(panel):
    scene = scene_for(concept="cat", background="red", motion="rising")
    assert panel(render(scene, VideoFormat(4, 16, 24, 3.0))) == {"background": "red"}
    assert panel.accuracies(4, 16)["background"].size == "24x40"
    assert set(panel.accuracies(8, 24)) >= {"background", "concept"}
    assert "motion" not in panel.accuracies(8, 24)


def test_the_matcher_finds_captions():
    (found,) = (
        a for a in Matcher.load(SHIPPED / f"{MATCHER}.safetensors").accuracies if a.size == "24x40"
    )
    assert found.right / found.of > 0.5  # 1.6 % by chance


def test_accuracy_is_of_the_largest_size_that_is_not_larger():
    known = [Accuracy("a", size, 1, 2) for size in ("24x40", "192x320", "48x80")]
    assert [a.size for a in nearest_size(known, 191)] == ["48x80"]
    assert [a.size for a in nearest_size(known, 768)] == ["192x320"]
    assert [a.size for a in nearest_size(known, 16)] == ["24x40"]
    assert nearest_size([], 16) == []
