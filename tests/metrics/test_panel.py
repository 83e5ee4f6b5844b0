"""The judges that come with the package."""

import pytest

from imagen_video.data.stickers import render, scene_for
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
    right = of = 0
    for seed, (concept, motion) in enumerate(
        (("cat", "rising"), ("rocket", "growing"), ("car", "moving left to right"))
    ):
        facts = {"concept": concept, "motion": motion, "style": "3D render", "background": "blue"}
        found = panel(render(scene_for(**facts, seed=seed), VideoFormat(16, *size, 3.0)))
        right += sum(found[name] == value for name, value in facts.items())
        of += len(facts)
    assert right >= of - 2


def test_short_and_small_clips_are_asked_for_their_ground_alone(panel):
    scene = scene_for(concept="cat", background="red", motion="rising")
    assert panel(render(scene, VideoFormat(4, 16, 24, 3.0))) == {"background": "red"}


def test_the_matcher_finds_captions():
    (found,) = (
        a for a in Matcher.load(SHIPPED / f"{MATCHER}.safetensors").accuracies if a.size == "24x40"
    )
    assert found.right / found.of > 0.5  # 1.6 % by chance


def test_accuracy_is_of_the_largest_size_that_is_not_larger():
    known = [Accuracy("a", size, 1, 2) for size in ("24x40", "192x320", "48x80")]
    assert [a.size for a in nearest_size(known, 191)] == ["48x80"]
    assert [a.size for a in nearest_size(known, 768)] == ["192x320"]
    assert nearest_size(known, 16) == []
