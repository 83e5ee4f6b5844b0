"""Folders, manifests and mixtures: every sample in its turn."""

import json
import multiprocessing
import signal
import tarfile
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from shades import FORMAT, STILL, WHOLE, deadly, shade, source, write_video

from imagen_video import presets
from imagen_video.data import bad_samples
from imagen_video.data.bad_samples import BadSamples
from imagen_video.data.clips import Example, Position
from imagen_video.data.library import MediaSource
from imagen_video.data.mix import Mix, batches, surviving
from imagen_video.data.order import Shuffled, permuted
from imagen_video.data.rows import Rows, of_folder
from imagen_video.data.sources import Mixture, _weighed, open_source, rows_of
from imagen_video.video import VideoFormat


@pytest.mark.parametrize("count", [1, 2, 3, 17, 256, 1000])
def test_every_place_of_a_permutation_is_taken_once(count):
    for key in (0, 1, 2**63):
        order = [permuted(i, count, key) for i in range(count)]
        assert sorted(order) == list(range(count))
    assert count < 17 or order != [permuted(i, count, 5) for i in range(count)]


def test_epochs_are_whole_and_blocks_stay_together():
    order = Shuffled([3, 0, 5, 2], seed=1)
    epochs = [[order[10 * epoch + i] for i in range(10)] for epoch in range(4)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    block = [0] * 3 + [2] * 5 + [3] * 2
    for epoch in epochs:
        changes = sum(block[a] != block[b] for a, b in pairwise(epoch))
        assert changes == 2
    assert order[3] == epochs[0][3]  # going back is going back


def test_a_folder_gives_every_video_and_image_its_caption(folder, bad):
    media = source(folder, bad)
    assert media.kinds == {"video", "image"}
    clips = [media.clip(i, FORMAT, WHOLE) for i in range(6)]
    assert all(abs(int(c.caption.split()[1]) - shade(c)) <= 2 for c in clips)
    assert Counter(c.caption for c in clips) == {f"video {20 * i + 40}": 2 for i in range(3)}
    stills = [media.image(i, STILL, WHOLE) for i in range(5)]
    assert {s.caption for s in stills} == {f"image {20 * i + 120}" for i in range(5)}
    assert all(s.video.shape == (1, 3, 8, 12) for s in stills)
    assert not bad.path.exists()
    again = source(folder, bad)
    assert again.clip(4, FORMAT, WHOLE).video.equal(clips[4].video)


def test_stills_are_frames_where_there_are_no_images(folder, bad):
    media = source(folder / "videos", bad)
    assert media.image(0, VideoFormat(1, 8, 12, 24.0), WHOLE).caption.startswith("video")
    images = MediaSource(
        "i", Rows([[{**r} for r in of_folder(folder) if r["kind"] == "image"]]), seed=0, bad=bad
    )
    assert images.kinds == {"image"}
    with pytest.raises(ValueError, match="no video"):
        images.clip(0, FORMAT, WHOLE)


def test_names_that_are_not_utf8_are_names(folder, tmp_path, monkeypatch, bad):
    """Python has such bytes as surrogates."""
    monkeypatch.setenv("IMAGEN_VIDEO_CACHE", str(tmp_path / "cache"))
    odd = "caf\udce9"
    (folder / "videos" / "0.mp4").rename(folder / "videos" / f"{odd}.mp4")
    (folder / "videos" / "0.txt").write_text("late")
    (folder / "videos" / "0.txt").rename(folder / "videos" / f"{odd}.txt")
    (folder / "0.png").rename(folder / f"{odd}.png")
    with tarfile.open(folder / f"{odd}.tar", "w") as tar:
        for suffix in ("mp4", "txt"):
            tar.add(folder / "videos" / f"{odd}.{suffix}", f"{odd}.{suffix}")
    for name in (str(folder / "videos"), str(folder / f"{odd}.tar")):
        media = MediaSource(name, rows_of(name), seed=0, bad=bad)
        shown = [media.clip(i, FORMAT, WHOLE) for i in range(3)]
        assert any(clip.caption == "late" and abs(shade(clip) - 40) <= 2 for clip in shown)
    stills = MediaSource("a", Rows([of_folder(folder)]), seed=0, bad=bad)
    for i in range(5):
        stills.image(i, STILL, WHOLE)
    (line,) = map(json.loads, bad.path.read_text().splitlines())
    assert line["path"].endswith(f"{odd}.png") and "no caption" in line["reason"]


def held_out(name, rows, bad) -> list[str]:
    """The names of one epoch of the test part."""
    media = MediaSource(name, rows, seed=0, bad=bad, part="test")
    return sorted(
        Path(rows[turns[i]].media.path).name
        for turns in (media._videos, media._stills)
        for i in range(turns.count)
    )


def test_of_every_kind_one_in_fifty_is_held_out(tmp_path, monkeypatch, bad):
    names = [f"{i:04d}.mp4" for i in range(150)] + [f"{i:04d}.png" for i in range(1000)]
    for name in names:
        (tmp_path / name).touch()
    rows = rows_of(str(tmp_path))
    test = held_out(str(tmp_path), rows, bad)
    assert Counter(Path(name).suffix for name in test) == {".mp4": 3, ".png": 20}
    train = MediaSource(str(tmp_path), rows, seed=0, bad=bad)
    assert (train._videos.count, train._stills.count) == (147, 980)
    monkeypatch.chdir(tmp_path.parent)
    for typed in (tmp_path.name, f"./{tmp_path.name}/", f"{tmp_path}/../{tmp_path.name}"):
        assert held_out(typed, rows_of(typed), bad) == test


def test_a_kind_with_few_samples_holds_out_none(bad):
    rows = [{"media": (f"set/{i}.mp4",), "kind": "video", "text": "a"} for i in range(20)]
    rows += [{"media": (f"set/{i}.png",), "kind": "image", "text": "a"} for i in range(100)]
    for part, stills in (("train", 98), ("test", 2)):
        media = MediaSource("set", Rows([rows]), seed=0, bad=bad, part=part)
        assert (media._videos.count, media._stills.count) == (20, stills)


def test_a_folder_may_be_called_like_a_weight(folder, bad):
    folder = folder.rename(folder.with_name("year=2024"))
    alone = open_source([str(folder)], seed=0, bad=bad)
    assert alone.image(0, STILL, WHOLE).caption.startswith("image")
    both = open_source([f"{folder}=3", "stickers"], seed=0, bad=bad)
    assert set(both.position(8, 8)) >= {str(folder)}


def test_the_query_of_a_url_is_no_weight():
    signed = "https://store/a.tar?key=b&expires=1700000000"
    assert _weighed(signed) == (signed, 1.0)
    assert _weighed(f"{signed}=2") == (signed, 2.0)
    assert _weighed("s3://store/a-{0..9}.tar=3") == ("s3://store/a-{0..9}.tar", 3.0)


def test_sources_take_turns_by_weight(folder, bad):
    mixed = open_source([f"{folder}=3", "stickers=1"], seed=0, bad=bad)
    clips = [mixed.clip(i, FORMAT, WHOLE).caption for i in range(200)]
    own = [caption for caption in clips if caption.startswith("video ")]
    assert 130 <= len(own) <= 170
    counts = Counter(own[: len(own) // 3 * 3])
    assert max(counts.values()) == min(counts.values())  # every sample once an epoch

    class Numbers:
        kinds = frozenset({"video"})

        def __init__(self):
            self.asked = []

        def clip(self, index, format, crop):
            self.asked.append(index)
            return Example(torch.zeros(1, 3, 8, 12, dtype=torch.uint8), "")

        image = clip

        def position(self, clips, stills):
            return {str(id(self)): Position(clips, stills)}

    few, many = Numbers(), Numbers()
    both = Mixture([(few, 0.1), (many, 0.9)], seed=0)
    for i in range(3000):
        both.clip(i, FORMAT, WHOLE)
    assert few.asked == list(range(300)) and many.asked == list(range(2700))
    assert both.position(1234, 0)[str(id(few))].clips == few_of(both, 1234)


def few_of(mixture, count):
    """How many of the first clips come from the first source, counted."""
    return sum(mixture._clips[i][0] is mixture._clips.sources[0] for i in range(count))


def test_a_position_says_how_far_every_source_is(folder, bad):
    mixed = open_source([str(folder), "stickers"], seed=0, bad=bad)
    position = mixed.position(2000, 100)
    assert position["stickers"].clips == position[str(folder)].clips == 1000
    assert position[str(folder)].clip_epoch == 1000 // 3
    assert position["stickers"].stills + position[str(folder)].stills == 100


def test_a_position_tells_other_content(folder, bad):
    before = source(folder, bad).position(1, 1)[str(folder)]
    assert source(folder, bad).position(1, 1)[str(folder)] == before
    assert source(folder, bad, cropping="centre").position(1, 1)[str(folder)] != before
    (folder / "1.txt").write_text("another caption")
    other = source(folder, bad).position(1, 1)[str(folder)]
    write_video(folder / "videos" / "9.mp4", 40)
    grown = source(folder, bad).position(1, 1)[str(folder)]
    assert len({before, other, grown}) == 3


@pytest.mark.parametrize(
    ("names", "error"),
    [
        ([], "at least one"),
        (["nowhere"], "no source 'nowhere'"),
        (["stickers", "stickers=3"], "name a source once"),
        (["stickers=0"], "weight"),
        (["stickers=-1"], "weight"),
        (["{empty}"], "no video and no image"),
        (["{empty}/a.xlsx"], "manifest ends in"),
    ],
)
def test_names_of_sources_are_checked(tmp_path, bad, names, error):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.xlsx").touch()
    names = [name.replace("{empty}", str(tmp_path / "empty")) for name in names]
    with pytest.raises(ValueError, match=error):
        open_source(names, seed=0, bad=bad)


class Asked:
    """A source that notes which stills it is asked for."""

    kinds = frozenset({"video", "image"})

    def __init__(self):
        self.stills = []

    def clip(self, index, format, crop):
        return Example(torch.zeros(crop.frames, 3, 8, 12, dtype=torch.uint8), "a clip")

    def image(self, index, format, crop):
        self.stills.append(index)
        return self.clip(index, format, replace(crop, frames=1))

    def position(self, clips, stills):
        return {"asked": Position(clips, stills)}


def test_no_still_comes_twice_where_a_stride_leaves_frames_over():
    stage = presets.tiny().stages[0]
    stage = replace(stage, train=replace(stage.train, stride=3))  # of 4 frames: 2, 1 or 1
    asked = Asked()
    mix = Mix(asked, stage, seed=0, steps=40)
    lengths = {len(mix[step].frame_index) for step in range(40)}
    assert lengths == {1, 2}
    assert len(set(asked.stills)) == len(asked.stills)
    assert max(asked.stills) < mix.position(40)["asked"].stills


class Deaf(Asked):
    """A store that has stopped answering."""

    def clip(self, index, format, crop):
        time.sleep(1.5)
        return super().clip(index, format, crop)


def test_a_file_that_does_not_answer_ends_the_run(monkeypatch):
    monkeypatch.setattr(bad_samples, "SILENT", 1)
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.5)
    mix = Mix(Deaf(), presets.tiny().stages[0], seed=0, steps=2)
    loader = batches(mix, start=0)
    with pytest.raises(ValueError, match=r"timed out .*a file"), surviving(loader):
        next(loader)


@pytest.mark.parametrize("dies", [True, False])
def test_a_file_that_ends_its_reader_is_named_and_left_out(folder, tmp_path, monkeypatch, dies):
    fatal = folder / "0.png"
    crash = partial(signal.raise_signal, signal.SIGSEGV)
    deadly(monkeypatch, fatal, crash if dies else partial(time.sleep, 60))
    monkeypatch.setattr(bad_samples, "SILENT", 600 if dies else 3)
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.5)

    def captions() -> list[str]:
        bad = BadSamples(tmp_path / "out" / "bad.jsonl", limit=0.5)
        given = open_source([str(folder)], seed=0, bad=bad)
        loader = batches(Mix(given, presets.tiny().stages[0], seed=0, steps=8), start=0)
        with surviving(loader):
            return [c for batch in loader for frames in batch.captions for c in frames]

    with pytest.raises(ValueError, match=f"over {fatal}, which is left out"):
        captions()
    for child in multiprocessing.active_children():  # who waits at the end for what never ends?
        child.join(10)
        assert not child.is_alive()
    (line,) = map(json.loads, (tmp_path / "out" / "bad.jsonl").read_text().splitlines())
    assert line["path"] == str(fatal) and line["broken"]
    own = fatal.with_suffix(".txt").read_text()
    assert own not in captions() and len(captions()) == 8 * 3 * 4


def test_the_parts_of_a_batch_add_up_to_it():
    stage = presets.tiny().stages[0]
    batch = replace(Mix(Asked(), stage, seed=0, steps=1)[0], slowed=3)
    parts = list(batch.parts(2))
    assert sum(part.slowed for part in parts) == 3
    assert sorted(row for part in parts for row in part.rows) == list(batch.rows)
