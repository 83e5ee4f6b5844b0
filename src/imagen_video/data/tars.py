"""WebDataset tars, read by an index: any sample of any tar, without reading what lies before it.

The index lies beside the tar (`data pack` writes it) or, made on first use, in the cache.
"""

import hashlib
import json
import os
import re
import tarfile
from collections.abc import Iterator
from io import BytesIO
from itertools import count
from math import inf
from pathlib import Path
from typing import Any

from imagen_video.data.rows import NUMBERS, Row, Rows, captioned, kind_of
from imagen_video.files import Unreachable, cache_root, fetched, replacing

RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
CAPTIONS = ("caption", "text")


def expanded(pattern: str) -> list[str]:
    """ "a-{000..012}.tar" as thirteen names; ValueError if the range runs backwards."""
    match = RANGE.search(pattern)
    if match is None:
        return [pattern]
    first, last = map(int, match.groups())
    if last < first:
        raise ValueError(f"the range {match[0]} of {pattern!r} runs backwards")
    before, after = pattern[: match.start()], pattern[match.end() :]
    numbers = [f"{i:0{len(match[1])}d}" for i in range(first, last + 1)]
    return [name for number in numbers for name in expanded(before + number + after)]


def of_tar(url: str) -> Iterator[dict[str, Any]]:
    """The rows of one tar, a path or a URL; those up to the break where it is cut short. A broken
    one takes the place of all that a spoiled header hides, in an empty file of all.

    ValueError if there is no such tar, or it is none or a compressed one: no index reaches into it.
    """
    for row in _index(url):
        yield {**row, "media": (url, *row["media"])}


def index_beside(url: str) -> str:
    """Where the index of a tar is looked for first."""
    path, query, parameters = url.partition("?") if "://" in url else (url, "", "")
    return f"{path}.index.json{query}{parameters}"


def write_index(tar: Path) -> None:
    """Write the index beside a tar, with what tells the tar from one that takes its place."""
    with replacing(index_beside(str(tar))) as path:
        path.write_text(json.dumps({"tar": _state(tar), "rows": list(_read(tar))}))


def _state(tar: Path) -> list[int]:
    found = tar.stat()
    return [found.st_size, found.st_mtime_ns]


def _index(url: str) -> list[dict[str, Any]]:
    try:
        found = json.loads(fetched(index_beside(url)).read_text())
        if "://" in url or found["tar"] == _state(Path(url)):
            return found["rows"]
    except (ValueError, TypeError, KeyError, OSError, Unreachable):
        pass  # none, or another program's: the tar itself has it, or tells
    tar = fetched(url)
    if not tar.is_file():
        raise ValueError(f"there is no tar {url!r}")
    key = hashlib.sha256(os.fsencode(f"{url} {_state(tar)}")).hexdigest()
    kept = cache_root() / "tars" / f"{key}.json"
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with replacing(kept) as path:
            path.write_text(json.dumps(list(_read(tar))))
    return json.loads(kept.read_text())


def _read(tar: Path) -> Iterator[dict[str, Any]]:
    try:
        with tarfile.open(tar, "r:") as file:
            yield from _samples(file)
            yield from _lost(tar, file.offset)
    except tarfile.ReadError as error:
        if tar.stat().st_size:
            raise ValueError(f"cannot read {str(tar)!r} as an uncompressed tar: {error}") from error
        yield _broken(0)


def _samples(file: tarfile.TarFile) -> Iterator[dict[str, Any]]:
    """Members with one name up to the first dot are one sample (the WebDataset convention)."""
    key, parts = None, {}
    for member in _members(file):
        folder, _, name = member.name.rpartition("/")
        stem, _, suffix = name.partition(".")
        if (folder, stem) != key or suffix.lower() in parts:
            yield from _sample(file, parts)
            key, parts = (folder, stem), {}
        parts[suffix.lower()] = member
    yield from _sample(file, parts)


def _lost(tar: Path, offset: int) -> Iterator[dict[str, Any]]:
    """A broken row where a tar, read through, stopped at neither zeros nor the end of the file."""
    with open(tar, "rb") as file:
        file.seek(offset)
        block = file.read(tarfile.BLOCKSIZE)
    if len(block) == tarfile.BLOCKSIZE and any(block):
        yield _broken(offset)


def _broken(offset: int) -> dict[str, Any]:
    why = f"the tar is broken at byte {offset}: what follows cannot be read"
    place = (offset, tarfile.BLOCKSIZE, f"byte {offset}")
    return {"media": place, "kind": None, "text": None, "broken": why}


def _members(file: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Files and links to those before them, up to the end or a spoiled header; of a tar that is cut
    short the last one lacks bytes, and is seen to be bad, as a link to nothing is.

    Not what begins with a dot: macOS puts a "._0.png" beside what it packs.
    """
    places: dict[str, tuple[int, int]] = {}
    while True:
        try:
            member = file.next()
        except tarfile.ReadError:
            return
        if member is None:
            return
        if member.islnk():
            member.type = tarfile.REGTYPE
            member.offset_data, member.size = places.get(member.linkname, (0, 0))
        if member.isfile():
            places[member.name] = member.offset_data, member.size
            if not member.name.rpartition("/")[2].startswith("."):
                yield member


def _sample(file: tarfile.TarFile, parts: dict[str, tarfile.TarInfo]) -> Iterator[dict[str, Any]]:
    shown = [suffix for suffix in parts if kind_of(f"a.{suffix}")]
    if not shown:
        return
    # Of a video and its thumbnail the video, of "0.depth.png" and "0.jpg" the latter.
    media = parts[min(shown, key=lambda s: ("." in s, kind_of(f"a.{s}") != "video"))]
    row: dict[str, Any] = {"text": None}
    if "json" in parts:
        row |= _facts(_content(file, parts["json"]))
    if "txt" in parts:
        row |= captioned(_content(file, parts["txt"]))
    place = (media.offset_data, media.size, media.name)
    yield {"media": place, "kind": kind_of(media.name), **row}


def _content(file: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = file.extractfile(member)
    assert stream is not None  # only of members that are no files
    try:
        return stream.read()
    except tarfile.ReadError:
        return b""


def _facts(content: bytes) -> dict[str, Any]:
    """Caption and numbers of a sample's JSON; nothing from what is no JSON object."""
    try:
        given = json.loads(content)
    except ValueError:
        return {}
    if not isinstance(given, dict):
        return {}
    texts = [given[name] for name in CAPTIONS if isinstance(given.get(name), str)]
    numbers = {n: given[n] for n in NUMBERS if isinstance(given.get(n), int | float)}
    file = {"file": given["file"]} if isinstance(given.get("file"), str) else {}
    return {**({"text": texts[0]} if texts else {}), **numbers, **file}


def pack(rows: Rows, out: Path, *, bytes_a_tar: int) -> list[tuple[Row, str]]:
    """Write what rows show into tars 000000.tar ... with their indexes; returns what was left out,
    with reasons: what cannot be read, or has no caption.

    Files are copied as they are, once for every part that is used, with their captions and those
    parts. ValueError where `out` holds tars.
    """
    if bytes_a_tar < 1:
        raise ValueError(f"a tar holds a byte or more, got {bytes_a_tar}")
    out.mkdir(parents=True, exist_ok=True)
    if any(out.glob("*.tar")):
        raise ValueError(f"{out} holds tars, which would be read with the new: give another --out")
    left_out: list[tuple[Row, str]] = []
    members = _packed(rows, left_out)
    member = next(members, None)
    for number in count():
        if member is None:
            return left_out
        with replacing(out / f"{number:06d}.tar") as path, tarfile.open(path, "w") as tar:
            while member is not None and tar.offset < bytes_a_tar:
                for name, content in member:
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    tar.addfile(info, BytesIO(content))
                member = next(members, None)
        write_index(out / f"{number:06d}.tar")
    raise AssertionError("count() does not end")


def _packed(rows: Rows, left_out: list[tuple[Row, str]]) -> Iterator[list[tuple[str, bytes]]]:
    """The members of one sample after the other."""
    for number, row in enumerate(rows):
        try:
            if row.broken:
                raise ValueError(row.broken)
            with row.media.open() as file:
                content = file.read()
            if not row.caption:
                raise ValueError("no caption")
        except (OSError, ValueError) as error:
            left_out.append((row, str(error)))
            continue
        file = row.file or hashlib.sha256(os.fsencode(str(row.media))).hexdigest()[:16]
        facts: dict[str, Any] = {"text": row.caption, "file": file}
        facts |= {n: getattr(row, n) for n in NUMBERS if getattr(row, n) not in (None, inf)}
        suffix = Path(row.media.member or row.media.path).suffix.lower()
        # What has no known suffix is taken for a video; readers see in the bytes which it is.
        suffix = suffix if kind_of(f"a{suffix}") else ".mp4"
        yield [
            (f"{number:09d}{suffix}", content),
            (f"{number:09d}.json", json.dumps(facts).encode()),
        ]
