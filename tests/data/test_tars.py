"""Tars: read by an index as WebDataset reads them in a row, fetched once, packed."""

import io
import json
import os
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from shades import FORMAT, STILL, WHOLE, write_image, write_video
from webdataset.tariterators import group_by_keys, tar_file_iterator

from imagen_video.data.library import MediaSource
from imagen_video.data.rows import Rows, of_folder
from imagen_video.data.sources import open_source, rows_of
from imagen_video.data.tars import expanded, index_beside, of_tar, pack, write_index


def bytes_of(row) -> bytes:
    with row.media.open() as file:
        return file.read()


def write_tar(path, folder, names):
    with tarfile.open(path, "w") as tar:
        for name in names:
            tar.add(folder / name, arcname=f"deep/{name.replace('/', '-')}")


def read_by_webdataset(path):
    with open(path, "rb") as file:
        members = ({**m, "__url__": ""} for m in tar_file_iterator(file))
        return list(group_by_keys(members))


def test_tars_are_read_by_index(folder, bad, tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGEN_VIDEO_CACHE", str(tmp_path / "cache"))
    write_tar(tmp_path / "a-0.tar", folder, ["videos/0.mp4", "videos/0.txt", "0.png", "0.txt"])
    write_tar(tmp_path / "a-1.tar", folder, ["1.txt", "1.png", "notes.md", "videos/2.txt"])
    with tarfile.open(tmp_path / "a-1.tar", "a") as tar:
        tar.add(folder / "videos/2.mp4", arcname="deep/videos-2.mp4")
        for name, content in (("x.json", b'{"caption": "told", "fps": 9}'), ("x.jpg", b"?")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    rows = list(Rows(map(of_tar, expanded(str(tmp_path / "a-{0..1}.tar")))))
    texts = ["video 40", "image 120", "image 140", "video 80", "told"]
    assert [row.text for row in rows] == texts and rows[-1].fps == 9
    theirs = [sample for i in range(2) for sample in read_by_webdataset(tmp_path / f"a-{i}.tar")]
    assert [row.media.member for row in rows][:2] == ["deep/videos-0.mp4", "deep/0.png"]
    contents = [s.get("mp4", s.get("png", s.get("jpg"))) for s in theirs]
    assert [bytes_of(row) for row in rows] == [c for c in contents if c]
    mixed = open_source([str(tmp_path / "a-{0..1}.tar")], seed=0, bad=bad)
    assert {mixed.clip(i, FORMAT, WHOLE).caption for i in range(2)} == {"video 40", "video 80"}
    write_index(tmp_path / "a-0.tar")
    assert [row.text for row in Rows([of_tar(str(tmp_path / "a-0.tar"))])] == texts[:2]


def test_a_video_goes_before_its_thumbnail_and_a_picture_before_its_depth(folder, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for source, name in (
            ("0.png", "0.depth.png"),
            ("1.png", "0.png"),
            ("0.png", "1.jpg"),
            ("videos/0.mp4", "1.mp4"),
            ("0.png", "1.z.png"),
        ):
            tar.add(folder / source, arcname=name)
    rows = Rows([of_tar(str(tmp_path / "a.tar"))])
    assert [(row.media.member, row.kind) for row in rows] == [
        ("0.png", "image"),
        ("1.mp4", "video"),
    ]


def test_cut_and_compressed_tars(folder, tmp_path, monkeypatch, bad):
    monkeypatch.setenv("IMAGEN_VIDEO_CACHE", str(tmp_path / "cache"))
    write_tar(tmp_path / "a.tar", folder, ["0.png", "0.txt", "videos/0.txt", "videos/0.mp4"])
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: whole.index(b"ftyp") + 200])
    rows = Rows([of_tar(str(tmp_path / "cut.tar"))])
    assert [row.text for row in rows] == ["image 120", "video 40"]
    with pytest.raises(ValueError, match=r"ends after \d+ of \d+ bytes"):
        rows[1].media.open()
    with tarfile.open(tmp_path / "b.tar", "w:gz") as tar:
        tar.add(folder / "0.png")
    with pytest.raises(ValueError, match="uncompressed"):
        Rows([of_tar(str(tmp_path / "b.tar"))])


def test_an_empty_tar_among_others_is_a_broken_sample(folder, tmp_path, monkeypatch, bad):
    monkeypatch.setenv("IMAGEN_VIDEO_CACHE", str(tmp_path / "cache"))
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "0.tar").touch()
    write_tar(tmp_path / "shards" / "1.tar", folder, ["0.png", "0.txt", "1.png", "1.txt"])
    media = open_source([str(tmp_path / "shards")], seed=0, bad=bad)
    assert media.kinds == {"image"}  # as the others are
    assert {media.image(i, STILL, WHOLE).caption for i in range(6)} == {"image 120", "image 140"}
    (line,) = map(json.loads, bad.path.read_text().splitlines())
    assert line["broken"] and "broken at byte 0" in line["reason"]


def test_links_doubles_and_files_of_a_mac_in_tars(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGEN_VIDEO_CACHE", str(tmp_path / "cache"))
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for source, name in (
            ("0.png", "0.png"),
            ("1.txt", "._0.png"),
            ("0.txt", "0.txt"),
            ("2.png", "0.png"),  # the same name again is another sample
            ("2.txt", "0.txt"),
        ):
            tar.add(folder / source, arcname=name)
        for name, linked in (("1.png", "0.png"), ("1.txt", "0.txt"), ("2.png", "nothing")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.LNKTYPE, linked
            tar.addfile(link)
    rows = list(Rows([of_tar(str(tmp_path / "a.tar"))]))
    assert [(r.media.member, r.text) for r in rows] == [
        ("0.png", "image 120"),
        ("0.png", "image 160"),
        ("1.png", "image 160"),
        ("2.png", None),
    ]
    assert bytes_of(rows[2]) == (folder / "2.png").read_bytes() and bytes_of(rows[3]) == b""


def test_a_caption_is_the_same_in_a_tar_and_in_a_folder_or_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGEN_VIDEO_CACHE", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    names = []
    for name, encoding in (("a", "utf-8"), ("b", "utf-8-sig"), ("c", "utf-16"), ("d", "latin-1")):
        write_image(tmp_path / "set" / f"{name}.png", 9)
        (tmp_path / "set" / f"{name}.txt").write_text("café", encoding=encoding)
        names += [f"{name}.png", f"{name}.txt"]
    write_tar(tmp_path / "a.tar", tmp_path / "set", names)
    for rows in (rows_of(str(tmp_path / "set")), rows_of(str(tmp_path / "a.tar"))):
        assert [row.text for row in rows] == ["café", "café", None, None]
        assert ["is no UTF-8" in (row.broken or "") for row in rows] == [False, False, True, True]


@pytest.mark.parametrize("long", ["", "long" * 30])
def test_a_spoiled_header_is_a_broken_sample(folder, tmp_path, monkeypatch, bad, long):
    """Python's tarfile takes it for the end; a long name is a header of its own before it."""
    monkeypatch.setenv("IMAGEN_VIDEO_CACHE", str(tmp_path / "cache"))
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        for i in range(4):
            tar.add(folder / f"{i}.txt", f"{i}{long}.txt")
            tar.add(folder / f"{i}.png", f"{i}{long}.png")
    with tarfile.open(tmp_path / "a.tar") as tar:
        third = tar.getmembers()[4].offset
    content = bytearray((tmp_path / "a.tar").read_bytes())
    at = third + 1024 * bool(long)
    content[at : at + 512] = b"?" * 512
    (tmp_path / "a.tar").write_bytes(content)
    for _ in ("read", "from the cache"):
        rows = Rows([of_tar(str(tmp_path / "a.tar"))])
        assert [row.text for row in rows] == ["image 120", "image 140", None]
    media = MediaSource("a", rows, seed=0, bad=bad)
    assert media.kinds == {"image"}
    shown = {media.image(i, STILL, WHOLE).caption for i in range(9)}
    assert shown == {"image 120", "image 140"}
    (line,) = map(json.loads, bad.path.read_text().splitlines())
    assert line["broken"] and f"broken at byte {third}" in line["reason"]
    ((_, why),) = pack(rows, tmp_path / "again", bytes_a_tar=10**6)
    assert f"broken at byte {third}" in why


@pytest.mark.parametrize(("name", "count"), [("a-{08..11}.tar", 4), ("{0..1}/{2..4}.tar", 6)])
def test_braces(name, count):
    names = expanded(name)
    assert len(set(names)) == count and not any("{" in name for name in names)
    with pytest.raises(ValueError, match="backwards"):
        expanded("a-{3..1}.tar")


def test_packed_tars_hold_what_was_packed(folder, tmp_path, monkeypatch, bad):
    monkeypatch.setenv("IMAGEN_VIDEO_CACHE", str(tmp_path / "cache"))
    (folder / "4.txt").unlink()
    rows = Rows([of_folder(folder)])
    left_out = pack(rows, tmp_path / "tars", bytes_a_tar=4000)
    assert [(row.media.path.rpartition("/")[2], why) for row, why in left_out] == [
        ("4.png", "no caption")
    ]
    tars = sorted((tmp_path / "tars").glob("*.tar"))
    assert len(tars) > 2
    packed = list(rows_of(str(tmp_path / "tars")))
    assert [row.text for row in packed] == [row.text for row in rows if row.text]
    kept = [bytes_of(row) for row in rows if row.text]
    assert [bytes_of(row) for row in packed] == kept
    theirs = [sample for tar in tars for sample in read_by_webdataset(tar)]
    assert [s.get("mp4", s.get("png")) for s in theirs] == kept
    with pytest.raises(ValueError, match=r"tars holds tars, .*another --out"):
        pack(rows, tmp_path / "tars", bytes_a_tar=4000)
    with pytest.raises(ValueError, match="a byte or more, got 0"):
        pack(rows, tmp_path / "others", bytes_a_tar=0)


def test_a_tar_made_anew_is_not_read_by_its_old_index(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGEN_VIDEO_CACHE", str(tmp_path / "cache"))
    tar = tmp_path / "a.tar"
    write_tar(tar, folder, ["0.png", "0.txt", "1.png", "1.txt"])
    write_index(tar)
    state = tar.stat()
    assert [row["text"] for row in of_tar(str(tar))] == ["image 120", "image 140"]
    write_tar(tar, folder, ["1.png", "1.txt", "0.png", "0.txt"])  # of the same size
    assert tar.stat().st_size == state.st_size
    for later in (-(10**9), 1):  # a copy may keep the time of what was made before
        os.utime(tar, ns=(state.st_atime_ns, state.st_mtime_ns + later))
        assert [row["text"] for row in of_tar(str(tar))] == ["image 140", "image 120"]


def test_files_beside_tars_are_read_too(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGEN_VIDEO_CACHE", str(tmp_path / "cache"))
    write_tar(folder / "a.tar", folder, ["0.png", "0.txt"])
    assert [row.text for row in rows_of(str(folder))][:2] == ["image 120"] * 2
    assert len(rows_of(str(folder))) == 9
    write_tar(folder / "videos" / "b.TAR", folder, ["1.png", "1.txt"])
    for found in ('[{"of": "another program"}]', "{}", "[]", "1", "no JSON"):
        Path(index_beside(str(folder / "a.tar"))).write_text(found)
        assert len(rows_of(str(folder))) == 10


def test_parts_of_one_video_are_held_out_together_packed_or_not(tmp_path, bad):
    lines = []
    for i in range(12):
        write_video(tmp_path / "set" / f"{i}.mp4", 10 * i)
        parts = [{"start": s / 10, "end": s / 10 + 0.8} for s in range(9)]
        lines += [json.dumps({"path": f"set/{i}.mp4", "text": f"{i}"} | part) for part in parts]
    (tmp_path / "parts.jsonl").write_text("\n".join(lines))
    pack(rows_of(str(tmp_path / "parts.jsonl")), tmp_path / "tars", bytes_a_tar=30000)
    for name in (str(tmp_path / "parts.jsonl"), str(tmp_path / "tars")):
        rows, seen = rows_of(name), {}
        for part in ("train", "test"):
            turns = MediaSource(name, rows, seed=0, bad=bad, part=part)._videos
            seen[part] = Counter(rows[turns[i]].text for i in range(turns.count))
        assert len(seen["test"]) == 1 and set(seen["test"].values()) == {9}
        assert len(seen["train"]) == 11 and not seen["train"].keys() & seen["test"].keys()


def test_files_without_a_suffix_are_packed_as_what_they_are(folder, tmp_path, bad):
    (folder / "videos" / "0.mp4").rename(folder / "first")
    (folder / "videos" / "1.mp4").rename(folder / "second.clip")
    rows = [
        {"media": (str(folder / name),), "kind": "video", "text": name}
        for name in ("first", "second.clip", "videos/2.mp4")
    ]
    assert not pack(Rows([rows]), tmp_path / "tars", bytes_a_tar=10**6)
    packed = open_source([str(tmp_path / "tars")], seed=0, bad=bad)
    assert {packed.clip(i, FORMAT, WHOLE).caption for i in range(3)} == {r["text"] for r in rows}
