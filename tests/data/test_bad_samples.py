"""Samples that cannot be used: replaced, counted once, and too many end the run."""

import errno
import fcntl
import json
import multiprocessing
import pickle
import resource
from contextlib import nullcontext

import pytest
from shades import FORMAT, STILL, WHOLE, source, write_image, write_video

from imagen_video.data import library
from imagen_video.data.bad_samples import BadSamples, TooManyBad
from imagen_video.data.library import MediaSource
from imagen_video.data.rows import Rows
from imagen_video.files import Unreachable


def test_known_sizes_and_rates_save_opening_files(tmp_path, bad):
    rows = [
        {"media": ("missing.mp4",), "kind": "video", "text": "a", "fps": 2.0},
        {"media": ("missing too.mp4",), "kind": "video", "text": "a", "width": 5, "height": 5},
    ]
    media = MediaSource("few", Rows([rows]), seed=0, bad=bad)
    with pytest.raises(TooManyBad, match="in a row"):
        media.clip(0, FORMAT, WHOLE)
    lines = [json.loads(line) for line in bad.path.read_text().splitlines()]
    assert not any(line["broken"] for line in lines) and len(lines) == 2


def test_bad_samples_are_replaced_and_counted_once(folder, bad):
    good = source(folder, bad)
    videos = [good.clip(i, FORMAT, WHOLE) for i in range(9)]
    (folder / "videos" / "1.mp4").write_bytes(b"no video")
    (folder / "3.txt").unlink()
    write_video(folder / "videos" / "2.mp4", 80, frames=1)
    spoiled = source(folder, bad)
    clips = [spoiled.clip(i, FORMAT, WHOLE) for i in range(9)]
    assert {clip.caption for clip in clips} == {"video 40"}
    kept = [i for i in range(9) if videos[i].caption == "video 40"]
    assert all(clips[i].video.equal(videos[i].video) for i in kept)
    for i in range(10):
        spoiled.image(i, STILL, WHOLE)
    lines = [json.loads(line) for line in bad.path.read_text().splitlines()]
    reasons = {line["path"].rpartition("/")[2]: line for line in lines}
    assert len(lines) == 3 and set(reasons) == {"1.mp4", "2.mp4", "3.png"}
    assert "no caption" in reasons["3.png"]["reason"] and not reasons["2.mp4"]["broken"]


@pytest.mark.parametrize("name", ["videos/0.mp4", "0.png"])
def test_what_the_machine_is_short_of_is_no_fault_of_a_file(folder, bad, monkeypatch, name):
    """It is tried again, and ends the run where that does not help."""
    monkeypatch.setattr("imagen_video.files.PAUSES", (0, 0))
    media = source(folder, bad)
    read = media.clip if name.startswith("videos") else media.image
    format = FORMAT if name.startswith("videos") else STILL
    read(0, format, WHOLE)  # what is imported opens files too
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        with pytest.raises(
            Unreachable, match=r"cannot open .*, tried 3 times: .*Too many open files"
        ):
            read(1, format, WHOLE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert not bad.path.exists()
    assert read(1, format, WHOLE).caption


def test_a_file_is_opened_again_when_the_machine_has_what_it_takes(folder, bad, monkeypatch):
    media = source(folder, bad)
    media.clip(0, FORMAT, WHOLE)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    waited = []

    def freed(seconds: float) -> None:
        waited.append(seconds)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    monkeypatch.setattr("time.sleep", freed)
    try:
        for name, read, format in (
            ("a video", media.clip, FORMAT),
            ("a still", media.image, STILL),
        ):
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
            assert read(1, format, WHOLE).caption and waited.pop() == 1, name
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert not waited and not bad.path.exists()


def test_of_a_large_set_the_share_is_that_of_what_was_tried(tmp_path, monkeypatch):
    monkeypatch.setattr(library, "TRIED", 10)
    rows = [{"media": (f"{i}.mp4",), "kind": "video", "text": "a"} for i in range(900)]
    rows[::90] = [row | {"media": (str(tmp_path / "good.mp4"),)} for row in rows[::90]]
    write_video(tmp_path / "good.mp4", 80)
    bad = BadSamples(tmp_path / "bad.jsonl", limit=0.5)
    media = MediaSource("many", Rows([rows]), seed=0, bad=bad)
    with pytest.raises(TooManyBad, match="6 of the 10 samples of many are broken, more than 50%"):
        for i in range(900):
            media.clip(i, FORMAT, WHOLE)


@pytest.mark.parametrize(("every", "start"), [(20, 0), (4, 0), (4, 10**6)])
def test_clips_and_stills_share_one_count_of_what_this_run_tried(
    tmp_path, monkeypatch, every, start
):
    """A clip and four stills a step, of which one file in so many is broken; 15 % may be."""
    monkeypatch.setattr(library, "TRIED", 200)
    write_video(tmp_path / "good.mp4", 80)
    write_image(tmp_path / "good.png", 80)
    rows = []
    for kind, end, count in (("video", "mp4", 2000), ("image", "png", 8000)):
        for i in range(count):
            path = f"{i}.{end}" if i % every == 0 else str(tmp_path / f"good.{end}")
            rows.append({"media": (path,), "kind": kind, "text": "a", "file": f"{i}.{end}"})
    bad = BadSamples(tmp_path / "bad.jsonl", limit=0.15)
    media = MediaSource("both", Rows([rows]), seed=0, bad=bad)
    with pytest.raises(TooManyBad, match="more than 15%") if every == 4 else nullcontext():
        for step in range(start, start + 200):
            media.clip(step, FORMAT, WHOLE)
            for i in range(4):
                media.image(4 * step + i, STILL, WHOLE)


def test_what_is_held_out_is_counted_by_itself(tmp_path):
    path = tmp_path / "bad.jsonl"
    training, held_out = BadSamples(path, limit=0.2), BadSamples(path, limit=0.2, part="test")
    for name in "ab":
        training.add("set", name, ValueError("broken"), of=10)
    held_out.add("set", "c", ValueError("broken"), of=10)
    training.add("set", "b", ValueError("broken"), of=10)
    with pytest.raises(TooManyBad, match="3 of the 10"):
        training.add("set", "d", ValueError("broken"), of=10)


def test_every_part_of_a_broken_film_is_a_bad_sample(folder, tmp_path):
    (folder / "videos" / "0.mp4").write_bytes(b"no video")
    film, good = ((str(folder / "videos" / f"{i}.mp4"),) for i in range(2))
    rows = [{"media": film, "kind": "video", "text": "a", "start": i} for i in (2, 3, 4)]
    rows = [row | {"end": row["start"] + 1} for row in rows]
    rows += [{"media": good, "kind": "video", "text": "b"}] * 2
    bad = BadSamples(tmp_path / "bad.jsonl", limit=0.5)
    media = MediaSource("parts", Rows([rows]), seed=0, bad=bad)
    with pytest.raises(TooManyBad, match="3 of the 5 samples of parts are broken"):
        for i in range(9):
            media.clip(i, FORMAT, WHOLE)
    names = {json.loads(line)["path"] for line in bad.path.read_text().splitlines()}
    assert names == {f"{film[0]} from {i}.0 s to {i + 1}.0 s" for i in (2, 3, 4)}


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"start": 1.0, "end": 1.0, "fps": 6.0}, "from 1.0 s to 1.0 s"),
        ({"start": -2.6}, "from -2.6 s to inf s"),
        ({"text": " "}, "no caption"),
    ],
)
def test_senseless_rows_are_counted(folder, bad, more, reason):
    row = {"media": (str(folder / "videos" / "0.mp4"),), "kind": "video", "text": "a"}
    media = MediaSource("two", Rows([[row | more, row]]), seed=0, bad=bad)
    assert all(media.clip(i, FORMAT, WHOLE).video.float().mean() < 42 for i in range(4))
    (line,) = map(json.loads, bad.path.read_text().splitlines())
    assert reason in line["reason"] and line["broken"]


def test_half_an_emoji_is_read_as_text(folder, bad, tiny):
    row = {"media": (str(folder / "0.png"),), "kind": "image", "text": "nice \ud83d"}
    caption = MediaSource("one", Rows([[row]]), seed=0, bad=bad).image(0, STILL, WHOLE).caption
    assert caption == "nice ?" and tiny.encoder([caption]).mask.any()


def test_where_nothing_held_out_fits_others_are_shown(folder, bad):
    rows = [
        {"media": (str(folder / "0.png"),), "kind": "image", "text": "a", "file": str(i)}
        for i in range(200)
    ]
    names = Rows([rows])
    test = MediaSource("set", names, seed=0, bad=bad, part="test")._stills
    for number in {test[i] for i in range(test.count)}:
        rows[number] |= {"width": 5, "height": 5}  # too small
    found = MediaSource("set", Rows([rows]), seed=0, bad=bad, part="test")
    assert found._stills.count == 4 and found.image(0, STILL, WHOLE).caption == "a"


def test_what_is_held_out_is_not_trained_on_where_little_else_fits(folder, bad):
    """Nor does it end a run that one of a hundred fits."""
    rows = [
        {"media": (str(folder / "0.png"),), "kind": "image", "text": f"{i}", "file": str(i)}
        for i in range(500)
    ]
    names, seen = Rows([rows]), {}
    for part in ("train", "test"):
        turns = MediaSource("set", names, seed=0, bad=bad, part=part)._stills
        seen[part] = {turns[i] for i in range(turns.count)}
    fits = {*seen["test"], *list(seen["train"])[:5]}
    rows = [row if i in fits else row | {"width": 5, "height": 5} for i, row in enumerate(rows)]
    media = MediaSource("set", Rows([rows]), seed=0, bad=bad)
    shown = {int(media.image(i, STILL, WHOLE).caption) for i in range(40)}
    assert shown and shown <= seen["train"]


def use(folder, path, numbers):
    media = source(folder, BadSamples(path, limit=0.5))
    for i in numbers:
        media.clip(i, FORMAT, WHOLE)


def test_processes_share_one_count(folder, tmp_path):
    (folder / "videos" / "1.mp4").write_bytes(b"no video")
    path = tmp_path / "bad.jsonl"
    path.write_text('{"source": "half a li\nhalf a line\n')  # of runs that were killed
    context = multiprocessing.get_context("spawn")
    jobs = [context.Process(target=use, args=(folder, path, range(6))) for _ in range(2)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
        assert job.exitcode == 0
    assert sum("1.mp4" in line for line in path.read_text().splitlines()) == 1


def test_too_many_broken_samples_stop_the_run(folder, tmp_path):
    for i in range(2):
        (folder / "videos" / f"{i}.mp4").write_bytes(b"no video")
    media = source(folder, BadSamples(tmp_path / "bad.jsonl", limit=0.2))
    error = r"2 of the 8 samples of .* broken, more than 20%.*mend or remove .* --max-bad"
    with pytest.raises(TooManyBad, match=error):
        for i in range(6):
            media.clip(i, FORMAT, WHOLE)


def test_a_rerun_counts_anew_what_it_meets(tmp_path):
    path = tmp_path / "bad.jsonl"
    broken = {"error": ValueError("broken"), "of": 10}
    before = BadSamples(path, limit=0.2)
    for name in "ab":
        before.add("set", name, **broken)
    rerun = BadSamples(path, limit=0.2)
    BadSamples(path).add("set", "c", ValueError("broken"), of=100)  # another process of the rerun
    worker = pickle.loads(pickle.dumps(rerun))
    for name in "aca":
        worker.add("set", name, **broken)
    with pytest.raises(TooManyBad, match="3 of the 10"):
        worker.add("set", "b", **broken)
    assert [json.loads(line)["path"] for line in path.read_text().splitlines()] == ["a", "b", "c"]


def test_file_systems_without_locks_will_do(tmp_path, monkeypatch):
    def flock(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    bad = BadSamples(tmp_path / "bad.jsonl")
    for name in "aab":
        bad.add("set", name, ValueError("broken"), of=100)
    assert len(bad.path.read_text().splitlines()) == 2
