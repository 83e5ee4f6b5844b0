"""A data set looked through: what its report says, and what that costs."""

import signal
import time
from dataclasses import replace
from functools import partial

import pytest
from PIL import Image
from shades import FORMAT, deadly, write_image, write_video

from imagen_video import presets
from imagen_video.data import bad_samples
from imagen_video.data.check import check, try_row
from imagen_video.data.rows import Rows, of_folder
from imagen_video.video import VideoFormat


def stage(format=FORMAT):
    return replace(presets.tiny().stages[0], output=format)


def test_a_check_says_what_there_is(folder, tmp_path):
    (folder / "videos" / "1.mp4").write_bytes(b"no video")
    write_video(folder / "videos" / "2.mp4", 80, frames=1)
    (folder / "0.txt").write_text("naked people")
    (folder / "1.txt").write_text("people naked")
    lines = "\n".join(check([str(folder)], stage(), tmp_path / "out"))
    assert "8 samples; usable 1 videos and 5 images; unfit 1; broken 1" in lines
    assert "seconds: 1.333 to 1.333" in lines and "height: 16" in lines
    assert "words a caption: 2 to 2" in lines and "prompt filter refuses: 2 of 6" in lines
    assert "frame filter refuses: 0 of 6" in lines
    with Image.open(tmp_path / "out" / "sheet-0.png") as sheet:
        assert sheet.size[0] > 200
    assert len((tmp_path / "out" / "bad_samples.jsonl").read_text().splitlines()) == 2


def test_a_check_is_by_no_fewer_than_no_processes(folder, tmp_path):
    with pytest.raises(ValueError, match="workers must be 0 or more, got -1"):
        check([str(folder)], stage(), tmp_path / "out", workers=-1)


def test_a_check_tells_only_what_it_found_itself(folder, tmp_path):
    (folder / "0.txt").unlink()
    check([str(folder)], stage(), tmp_path / "out")
    (folder / "0.txt").write_text("mended")
    (folder / "1.txt").unlink()
    check([str(folder)], stage(), tmp_path / "out")
    (line,) = (tmp_path / "out" / "bad_samples.jsonl").read_text().splitlines()
    assert "1.png" in line


@pytest.mark.parametrize("dies", [True, False])
def test_a_check_names_what_ends_its_reader_and_goes_on_without(
    folder, tmp_path, monkeypatch, dies
):
    fatal = folder / "1.png"
    crash = partial(signal.raise_signal, signal.SIGKILL)
    deadly(monkeypatch, fatal, crash if dies else partial(time.sleep, 60))
    monkeypatch.setattr(bad_samples, "SILENT", 600 if dies else 3)
    with pytest.raises(ValueError, match=f"over {fatal}, which is left out"):
        check([str(folder)], stage(), tmp_path / "out")
    for _ in range(2):
        lines = "\n".join(check([str(folder)], stage(), tmp_path / "out"))
        assert "usable 3 videos and 4 images; unfit 0; broken 1" in lines


def test_a_check_says_how_large_images_are(folder, tmp_path):
    Image.new("RGB", (40, 30)).save(folder / "4.png")
    lines = "\n".join(check([str(folder)], stage(), tmp_path / "out"))
    assert "height: 16 to 30" in lines and "width: 24 to 40" in lines


def test_a_check_copies_neither_table_nor_clips(folder, tmp_path, monkeypatch):
    copies = []

    def counted(rows, protocol):
        copies.append(rows)
        return object.__reduce_ex__(rows, protocol)

    monkeypatch.setattr(Rows, "__reduce_ex__", counted)
    for i in range(20):
        write_image(folder / f"more-{i}.png", 90)
    check([str(folder)], stage(), tmp_path / "out")
    assert len(copies) <= 1
    write_video(tmp_path / "large" / "0.mp4", 90, frames=30, height=240, width=320)
    (tmp_path / "large" / "0.txt").write_text("large")
    (row,) = Rows([of_folder(tmp_path / "large")])
    found = try_row(row, stage(VideoFormat(20, 192, 320, 6.0)))
    assert found.frames is not None and found.frames.shape == (8, 3, 96, 160)
    assert (found.frames.float() - 90).abs().max() <= 2
