"""Tars in stores: fetched once, by an index where there is one, asked for again."""

import time

import pytest
from shades import STILL, WHOLE
from test_tars import bytes_of, write_tar  # pyright: ignore

from imagen_video.data.rows import Rows
from imagen_video.data.sources import open_source
from imagen_video.data.tars import index_beside, of_tar, write_index
from imagen_video.files import Unreachable


def test_tars_are_fetched_once_from_any_url(folder, tmp_path, monkeypatch):
    import fsspec

    monkeypatch.setenv("IMAGEN_VIDEO_CACHE", str(tmp_path / "cache"))
    write_tar(tmp_path / "a.tar", folder, ["0.png", "0.txt"])
    far = fsspec.filesystem("memory")
    far.pipe("/bucket/a.tar", (tmp_path / "a.tar").read_bytes())
    rows = Rows([of_tar("memory://bucket/a.tar")])
    assert rows[0].text == "image 120" and rows[0].media.path == "memory://bucket/a.tar"
    signed = f"memory://bucket/a.tar?signature={'s' * 400}"
    far.pipe(signed, (tmp_path / "a.tar").read_bytes())
    assert bytes_of(Rows([of_tar(signed)])[0]) == (folder / "0.png").read_bytes()
    assert index_beside(signed).startswith("memory://bucket/a.tar.index.json?signature=s")
    far.rm("/bucket/a.tar")
    assert bytes_of(rows[0]) == (folder / "0.png").read_bytes()
    with pytest.raises(ValueError, match=r"cannot fetch 'memory://bucket/b\.tar'"):
        Rows([of_tar("memory://bucket/b.tar")])


def test_a_store_that_hiccups_is_asked_again(folder, tmp_path, monkeypatch, bad):
    import fsspec
    from fsspec.implementations.memory import MemoryFileSystem

    monkeypatch.setenv("IMAGEN_VIDEO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("imagen_video.files.PAUSES", (0, 0))
    write_tar(tmp_path / "a.tar", folder, ["0.png", "0.txt"])
    write_index(tmp_path / "a.tar")
    for end in (".tar", ".tar.index.json"):
        content = (tmp_path / f"a{end}").read_bytes()
        fsspec.filesystem("memory").pipe(f"/shaky/a{end}", content)
    source = open_source(["memory://shaky/a.tar"], seed=0, bad=bad)
    get, failures = MemoryFileSystem.get_file, [ConnectionError("reset")] * 5

    def failing(*args, **options):
        if failures:
            raise failures.pop()
        return get(*args, **options)

    monkeypatch.setattr(MemoryFileSystem, "get_file", failing)
    with pytest.raises(Unreachable, match=r"a\.tar', tried 3 times: reset; when it can be had"):
        source.image(0, STILL, WHOLE)
    assert not bad.path.exists()
    assert source.image(0, STILL, WHOLE).caption == "image 120" and not failures


class Refused(Exception):
    """What a bucket answers that does not say what it lacks."""

    status = 403


@pytest.mark.parametrize("error", [Refused("Forbidden"), ConnectionError("reset")])
def test_a_tar_is_read_whose_index_cannot_be_had(folder, tmp_path, monkeypatch, bad, error):
    import fsspec
    from fsspec.implementations.memory import MemoryFileSystem

    monkeypatch.setenv("IMAGEN_VIDEO_CACHE", str(tmp_path / "cache"))
    waits = 60 if isinstance(error, Refused) else 0  # a refusal is an answer
    monkeypatch.setattr("imagen_video.files.PAUSES", (waits,))
    write_tar(tmp_path / "a.tar", folder, ["0.png", "0.txt"])
    name = f"memory://{tmp_path.name}/a.tar"
    fsspec.filesystem("memory").pipe(name, (tmp_path / "a.tar").read_bytes())
    get = MemoryFileSystem.get_file

    def refusing(store, path, *args, **options):
        if path.endswith(".json"):
            raise error
        return get(store, path, *args, **options)

    monkeypatch.setattr(MemoryFileSystem, "get_file", refusing)
    start = time.monotonic()
    assert open_source([name], seed=0, bad=bad).image(0, STILL, WHOLE).caption == "image 120"
    assert time.monotonic() - start < 30
