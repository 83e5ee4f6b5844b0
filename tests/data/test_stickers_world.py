import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from importlib.resources import files

import numpy as np
import pytest

from imagen_video.data.stickers import CORE_CONCEPTS, StickerWorld, captions, scene_for, splits
from imagen_video.data.stickers.backgrounds import TEXTURE_KINDS, Background
from imagen_video.data.stickers.concepts import COLOURS, CONCEPTS, STYLES
from imagen_video.data.stickers.evaluation import choose, eval_prompts
from imagen_video.data.stickers.motions import CLIP_SECONDS, MOTIONS, SOLID_MOTIONS
from imagen_video.data.stickers.scene import CLIP_SHARES, IMAGE_SHARES, clashes
from imagen_video.data.stickers.sprites import drawings
from imagen_video.data.stickers.words import FONTS, INKS

COUNT = 2500


@pytest.fixture(scope="module")
def clips():
    world = StickerWorld(1)
    return [world.clip(index) for index in range(COUNT)]


@pytest.fixture(scope="module")
def images():
    world = StickerWorld(1)
    return [world.image(index) for index in range(COUNT)]


def things(facts):
    return [name for name in (facts.concept, facts.second_concept) if name]


def test_a_scene_is_a_pure_function_of_seed_split_and_index(clips):
    assert StickerWorld(1).clip(17) == clips[17]
    assert StickerWorld(2).clip(17) != clips[17]
    assert StickerWorld(1, split="test").clip(17) != clips[17]
    assert StickerWorld(1).image(17).caption != clips[17].caption


def test_scenes_do_not_depend_on_the_process():
    code = (
        "from imagen_video.data.stickers import StickerWorld\n"
        "print([repr(StickerWorld(5).clip(i)) for i in range(20)])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "12"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == str([repr(StickerWorld(5).clip(i)) for i in range(20)])


def test_families_have_their_shares(clips, images):
    for scenes, shares in ((clips, CLIP_SHARES), (images, IMAGE_SHARES)):
        counts = Counter(scene.attributes.family for scene in scenes)
        assert sum(shares.values()) == pytest.approx(1)
        for family, share in shares.items():
            spread = (share * (1 - share) / COUNT) ** 0.5
            assert counts[family] / COUNT == pytest.approx(share, abs=4 * spread)


def test_training_shows_nothing_held_out(clips, images):
    for scene in clips:
        facts = scene.attributes
        assert facts.family == "text" or facts.style in splits.MOVING_STYLES
        assert not any(splits.held_out_motion(name, facts.motion) for name in things(facts))
        assert facts.family != "solid" or not splits.stays_flat(facts.concept)
    for scene in (*clips, *images):
        facts = scene.attributes
        assert facts.word not in splits.HELD_OUT_WORDS
        assert not any(splits.held_out_colour(name, facts.background) for name in things(facts))


def test_the_test_split_shows_everything_held_out():
    world = StickerWorld(1, split="test")
    scenes = [world.clip(index).attributes for index in range(COUNT)]
    assert {facts.style for facts in scenes} >= set(STYLES)
    assert any(facts.word in splits.HELD_OUT_WORDS for facts in scenes)
    assert any(splits.held_out_motion(name, f.motion) for f in scenes for name in things(f))
    assert any(splits.held_out_colour(name, f.background) for f in scenes for name in things(f))
    assert any(f.family == "solid" and splits.stays_flat(f.concept) for f in scenes)


def test_held_out_shares():
    assert len(splits.HELD_OUT_WORDS) == 100
    assert len(splits.TRAINING_WORDS) == 500
    pairs = [splits.held_out_motion(c, m) for c in CONCEPTS for m in MOTIONS]
    assert 0.02 < np.mean(pairs) < 0.06
    pairs = [splits.held_out_colour(c, colour) for c in CONCEPTS for colour in COLOURS]
    assert 0.02 < np.mean(pairs) < 0.06
    assert np.mean([splits.stays_flat(c) for c in CORE_CONCEPTS]) == pytest.approx(0.2, abs=0.02)


def test_attributes_are_json_and_nothing_vanishes_on_its_ground(clips, images):
    for scene in (*clips, *images):
        facts = scene.attributes
        assert json.loads(json.dumps(asdict(facts)))["style"] == facts.style
        for name in things(facts):
            assert not set(clashes()[name][facts.style]) & set(facts.background.split())


def test_captions_state_ground_and_kind(clips, images):
    for scene in (*clips, *images):
        facts, words = scene.attributes, scene.caption
        assert f"{facts.background} background" in words
        if facts.word:
            assert f'the word "{facts.word}", {" ".join(facts.word)}' in words
            assert f"{facts.ink} {facts.style}" in words
        else:
            assert any(wording in words for wording in captions.STYLE_WORDS[facts.style])
            for name in things(facts):
                names = (name, *CONCEPTS[name].synonyms)
                assert any(captions.with_article(known) in words for known in names)
        wordings = captions.MOTION_WORDS[facts.motion] if facts.motion else ("",)
        assert any(wording in words for wording in wordings)
    assert not any(" motion" in scene.caption or "still" in scene.caption for scene in images)


def test_plain_captions():
    def told(**facts):
        return scene_for(**facts).caption

    assert told(concept="cat", motion="rising") == "a cat rising on a red background, 3D render"
    assert told(
        concept="airplane", style="glossy cartoon", background="orange", motion="growing"
    ) == ("an airplane growing on an orange background, glossy cartoon")
    assert told(concept="unicorn", motion=None) == "a unicorn on a red background, 3D render"
    assert told(
        concept="umbrella", background="red and white striped", motion="camera zooming in"
    ) == ("an umbrella on a red and white striped background, the camera zooming in, 3D render")


def test_wordings_of_a_direction_end_with_it():
    words = captions.MOTION_WORDS
    for wording in words["moving left to right"]:
        assert wording.rfind("right") > wording.rfind("left")
    for wording in words["moving right to left"]:
        assert wording.rfind("left") > wording.rfind("right")
    every = [wording for wordings in words.values() for wording in wordings]
    assert len(every) == len(set(every))


def test_spins_stay_below_60_degrees_a_base_frame_and_make_a_turn():
    rng_seeds = range(60)
    for motion in (*SOLID_MOTIONS, "spinning clockwise", "spinning counterclockwise"):
        for seed in rng_seeds:
            (actor,) = scene_for(concept="cat", motion=motion, seed=seed).actors
            pose = actor.track.at(np.arange(17) / 3)
            turn = pose.view if motion in SOLID_MOTIONS else pose.angle
            assert np.abs(np.diff(turn)).max() < 60
            assert abs(turn[-1] - turn[0]) >= 330


def test_objects_stay_mostly_in_view_and_are_large_enough():
    seconds = np.linspace(0, CLIP_SECONDS, 17)
    for motion in MOTIONS:
        for seed in range(60):
            (actor,) = scene_for(concept="cat", motion=motion, seed=seed).actors
            pose = actor.track.at(seconds)
            # on each axis at least three quarters of its box are inside
            assert (np.abs(pose.x) + 0.25 * 0.6 * pose.size <= 0.5 + 1e-9).all()
            assert (np.abs(pose.y) + 0.25 * pose.size <= 0.5 + 1e-9).all()
            assert pose.size.max() >= 0.4


def test_evaluation_prompts_are_committed_balanced_and_known():
    prompts = eval_prompts()
    assert len(prompts) == 64 and prompts == choose()
    motions = Counter(prompt["motion"] for prompt in prompts)
    assert set(motions) == set(MOTIONS) and min(motions.values()) >= 6
    assert set(Counter(prompt["background"] for prompt in prompts)) == set(COLOURS)
    assert {prompt["concept"] for prompt in prompts} == set(CORE_CONCEPTS)
    for prompt in prompts:
        assert prompt["style"] in STYLES
        assert prompt["background"] not in clashes()[prompt["concept"]][prompt["style"]]


def test_the_pack_is_complete_small_and_licensed():
    assert len(CONCEPTS) >= 96 and len(CORE_CONCEPTS) == 48
    assert set(drawings()) == set(CONCEPTS) == set(clashes())
    assert all(set(styles) == set(STYLES) for styles in drawings().values())
    pack = files("imagen_video.data.stickers") / "pack"
    assert sum(len(file.read_bytes()) for file in pack.iterdir()) < 8e6
    names = {file.name for file in pack.iterdir()}
    assert {"MIT-fluent-emoji.txt", "APACHE-2.0-noto.txt", "SOURCES.md"} <= names
    assert all({f"{font}.ttf", f"OFL-{font}.txt"} <= names for font in FONTS.values())
    assert "Microsoft" in (pack / "MIT-fluent-emoji.txt").read_text()


def test_backgrounds_are_found_by_their_names():
    for kind in TEXTURE_KINDS:
        ground = Background(kind, "red", "white", 0.4, 0.1)
        assert Background.named(ground.name, scale=0.4, phase=0.1) == ground
    for name in ("beige", "red and white spotted", "red and beige striped", "red"):
        if name == "red":
            assert Background.named(name) == Background("flat", "red")
        else:
            with pytest.raises(ValueError, match="unknown; use one of"):
                Background.named(name)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"concept 'cats' unknown; use one of airplane"):
        scene_for(concept="cats")
    with pytest.raises(ValueError, match=r"unknown: \['cats'\]"):
        StickerWorld(concepts=("cat", "cats"))
    assert set(INKS) - set(COLOURS) == {"black"}
