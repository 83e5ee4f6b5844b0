"""What a data set holds, one row a video or image: folders, manifests, and tars (WebDataset)."""

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import inf
from pathlib import Path
from typing import Any, Literal

import numpy as np

from imagen_video.data.media import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Media
from imagen_video.files import opening

TABLES = (".jsonl", ".csv", ".parquet")
NUMBERS = ("start", "end", "fps", "width", "height")


@dataclass(frozen=True)
class Row:
    """One captioned video or image. `start` and `end` (seconds) are the part to use; `fps`,
    `width` and `height`, where known, save opening a file that will not fit. `file` stands for the
    one that a part was packed from. `broken` says why it cannot be used; what a broken tar hides is
    of no `kind`."""

    media: Media
    kind: Literal["video", "image"] | None
    text: str | None
    start: float = 0.0
    end: float = inf
    fps: float | None = None
    width: float | None = None
    height: float | None = None
    file: str | None = None
    broken: str | None = None

    @property
    def name(self) -> str:
        """Its file, and the part of it."""
        part = "" if (self.start, self.end) == (0, inf) else f" from {self.start} s to {self.end} s"
        return f"{self.media}{part}"

    @property
    def caption(self) -> str:
        """The text without what cannot be encoded (half of an emoji); "" where there is none."""
        text = self.text if isinstance(self.text, str) else ""
        return text.encode(errors="replace").decode().strip()


class Rows(Sequence[Row]):
    """Rows as bytes in one array: lists of objects would be copied into every worker's memory.

    `blocks` are the numbers of rows that lie together, such as in one tar.
    """

    def __init__(self, blocks: Iterable[Iterable[Mapping[str, Any]]]):
        parts, self.blocks = [], []
        for block in blocks:
            written = [json.dumps(row).encode() for row in block]
            parts += written
            self.blocks.append(len(written))
        self._bytes = np.frombuffer(b"".join(parts), dtype=np.uint8)
        self._ends = np.array(list(accumulate(map(len, parts), initial=0)), dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> Row:  # pyright: ignore[reportIncompatibleMethodOverride]
        facts = json.loads(self._bytes[self._ends[index] : self._ends[index + 1]].tobytes())
        facts |= {name: float(facts[name]) for name in NUMBERS if name in facts}
        return Row(Media(*facts.pop("media")), **facts)


def kind_of(name: str) -> Literal["video", "image"] | None:
    """What a file name promises."""
    suffix = Path(name).suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return "video"
    return "image" if suffix in IMAGE_SUFFIXES else None


def files_below(folder: Path) -> list[Path]:
    """What is below a folder, behind links to other folders too, each folder once."""
    found, seen = [], set()
    for root, folders, names in os.walk(folder, followlinks=True):
        folders.sort()  # the same of several ways to one
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        found += [Path(root, name) for name in names]
    return sorted(found)


def of_folder(folder: Path) -> Iterator[dict[str, Any]]:
    """Every video and image below a folder, with the text of the .txt file of the same name."""
    for path in files_below(folder):
        kind = kind_of(path.name)
        if kind is None or path.name.startswith(".") or not path.is_file():
            continue
        row = {"media": (str(path),), "kind": kind, "text": None}
        caption = path.with_suffix(".txt")
        try:
            if caption.is_file():
                row |= captioned(opening(caption.read_bytes, str(caption)))
        except OSError as error:
            row["broken"] = f"its caption cannot be read: {error.strerror}"
        yield row


def captioned(content: bytes) -> dict[str, Any]:
    """What the file of a caption adds to a row: never a text that says something else."""
    try:
        return {"text": content.decode("utf-8-sig").strip()}
    except UnicodeDecodeError as error:
        return {"broken": f"its caption is no UTF-8 ({error.reason}): save it as that"}


def of_manifest(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSONL, CSV or Parquet table: path, text[, start, end, fps, width, height].

    Paths are relative to the table. ValueError names the first line that cannot be read.
    """
    for number, row in enumerate(_readable(path), start=1):
        named = isinstance(row, dict) and row.get("path") and "text" in row
        if not named or isinstance(row["text"], bytes):
            raise ValueError(f"row {number} of {str(path)!r} needs path and text, got {row!r:.200}")
        given = {name: row[name] for name in NUMBERS if row.get(name) not in (None, "")}
        try:
            numbers = {name: float(value) for name, value in given.items()}
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(
                f"row {number} of {str(path)!r}: {', '.join(NUMBERS)} are numbers, got {given}"
            ) from error
        media = str(path.parent / str(row["path"]))
        # An unknown name is kept: it will be counted as a bad sample when it cannot be read.
        kind = kind_of(media) or "video"
        text = row["text"] if isinstance(row["text"], str) else None
        yield {"media": (media,), "kind": kind, "text": text, **numbers}


def _readable(path: Path) -> Iterator[Any]:
    """The rows of a table; ValueError, which names it, where it is not what its name says."""
    try:
        yield from _table(path)
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is no UTF-8 ({error}): save it as that") from error


def _table(path: Path) -> Iterator[Any]:
    if path.suffix.lower() == ".parquet":
        yield from _parquet(path)
    elif path.suffix.lower() == ".csv":
        yield from _csv(path)
    else:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    yield json.loads(line)
                except json.JSONDecodeError as error:
                    raise ValueError(
                        f"line {number} of {str(path)!r} is no JSON: {error}"
                    ) from error


def _csv(path: Path) -> Iterator[Any]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        table = csv.DictReader(file, strict=True)
        try:
            for row in table:
                if None in row:
                    more = ",".join(row[None])
                    raise ValueError(
                        f"line {table.line_num} of {str(path)!r} has more columns than its first "
                        f'line ({more!r:.100}): quote what has commas, "like, this"'
                    )
                yield row
        except csv.Error as error:
            raise ValueError(
                f"line {table.line_num} of {str(path)!r} is no CSV ({error}): close every quote "
                'that is opened, and write one in a text twice ("")'
            ) from error


def _parquet(path: Path) -> Iterator[Any]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ValueError(
            f"to read {str(path)!r} install pyarrow: pip install 'imagen-video[data]'"
        ) from error
    try:
        for batch in ParquetFile(path).iter_batches(1024):
            yield from batch.to_pylist()
    except (ArrowException, OSError) as error:
        said = str(error).splitlines()[0]
        raise ValueError(f"cannot read {str(path)!r} as Parquet: {said}") from error
