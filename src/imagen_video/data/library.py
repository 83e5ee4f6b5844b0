"""Videos and images of one's own as a source of training examples."""

import os
from hashlib import blake2b
from math import ceil
from typing import Literal

import numpy as np

from imagen_video.data.bad_samples import BadSamples, TooManyBad
from imagen_video.data.clips import Crop, Example, Position
from imagen_video.data.media import (
    Place,
    covering,
    fitted,
    read_clip,
    read_image,
    slowing,
)
from imagen_video.data.order import Shuffled, fraction, mixed
from imagen_video.data.rows import Row, Rows
from imagen_video.files import Unreachable
from imagen_video.video import VideoFormat

# So many samples in a row that cannot be used, of a large set: there are hardly any others.
ATTEMPTS = 1000
# So many before others than those that are held out are tried.
OWN = 50
# Of a larger set the share of bad samples is that of what was tried, after so many.
TRIED = 1000
# One file in so many of a kind is held out of training; of fewer than FEW, or of fewer than SMALL
# samples, none is.
HELD_OUT, FEW, SMALL = 50, 10, 100
Part = Literal["train", "test"]


class MediaSource:
    """Clips and stills of one data set; see `imagen_video.data.clips.Source`.

    Every epoch goes through the set in a new order; which seconds of a video and which part of a
    frame are shown are drawn anew too (`cropping` "centre": the middle of what is left over). In
    place of a sample that cannot be used comes another, the same one whenever this is run.
    Without images, stills are frames of the videos. Of the files with videos and of those with
    images one in fifty is of the "test" part, known by its name. Of fewer than ten files or a
    hundred samples both parts have all: a small set is validated on what it is trained on. So is
    one of which nothing that is held out can be used.
    """

    def __init__(
        self,
        name: str,
        rows: Rows,
        *,
        seed: int,
        bad: BadSamples,
        cropping: Literal["random", "centre"] = "random",
        part: Part = "train",
    ):
        if not len(rows):
            raise ValueError(f"{name} holds no video and no image")
        self.name, self.rows, self.seed, self.bad, self.cropping = name, rows, seed, bad, cropping
        self.captioned = True
        """Whether samples without a caption are broken."""
        facts, content = [], blake2b(cropping.encode(), digest_size=8)
        for row in rows:
            facts.append((row.kind == "image", _hash(row, name), row.kind is None))
            content.update(f"{facts[-1][:2]} {row.caption} {row.start} {row.end}".encode())
        self._content = content.hexdigest()
        image, hashes, lost = (np.array(fact) for fact in zip(*facts, strict=True))
        image[lost] = not lost.all() and image[~lost].mean() > 0.5  # as most are
        own = np.empty(len(rows), bool)
        for kind in (image, ~image):
            own[kind] = _of_part(hashes[kind], part)
        still = image if image.any() else np.ones_like(image)
        block = np.repeat(np.arange(len(rows.blocks)), rows.blocks)
        self.kinds = frozenset("image" if still else "video" for still in np.unique(image))
        spare = own if part == "train" else np.ones_like(own)  # never trained on: what is held out
        self._videos = _Shuffle(own & ~image, block, seed, spare=spare & ~image)
        self._stills = _Shuffle(own & still, block, seed, spare=spare & still)

    def clip(self, index: int, format: VideoFormat, crop: Crop) -> Example:
        return self._first_usable(self._videos, index, format, crop)

    def image(self, index: int, format: VideoFormat, crop: Crop) -> Example:
        still = Crop(0, crop.top, crop.left, 1, crop.height, crop.width)
        return self._first_usable(self._stills, index, format, still)

    def position(self, clips: int, stills: int) -> dict[str, Position]:
        clip_epoch = clips // self._videos.count if self._videos.count else None
        still_epoch = stills // self._stills.count
        return {self.name: Position(clips, stills, clip_epoch, still_epoch, self._content)}

    def _first_usable(
        self, turns: "_Shuffle", index: int, format: VideoFormat, crop: Crop
    ) -> Example:
        if not turns.count:
            raise ValueError(f"{self.name} holds no video: a stage with clips needs some")
        turns.saw(index)
        of = min(len(self.rows), max(TRIED, self._videos.tried + self._stills.tried))
        attempts = min(ATTEMPTS, max(2 * OWN, 10 * len(self.rows)))
        for attempt in range(attempts):
            row = self.rows[turns[index] if attempt == 0 else turns.other(index, attempt)]
            try:
                at = self._place(index, attempt)
                with self.bad.reading(self.name, row.name):
                    return example_of(row, format, crop, at, captioned=self.captioned)
            except ValueError as error:
                self.bad.add(self.name, row.name, error, of=of)
        raise TooManyBad(
            f"{attempts} samples of {self.name} in a row cannot be used for {format}: "
            f"see {self.bad.path}"
        )

    def _place(self, index: int, attempt: int) -> Place:
        time, row, column = (fraction(self.seed, index, attempt, i) for i in range(3))
        return Place(time, row, column) if self.cropping == "random" else Place(time)


def _hash(row: Row, source: str) -> int:
    """Of the file's name within the source, the same however the source is typed and on any
    machine; of what was packed, of the name it had."""
    media = row.media
    if row.file:
        name = row.file
    elif media.member:
        name = f"{media.path.rpartition('/')[2]}/{media.member}"
    else:
        name = os.path.relpath(media.path, source)
    # Names need not be Unicode.
    return int.from_bytes(blake2b(name.encode(errors="backslashreplace"), digest_size=6).digest())


def _of_part(hashes: np.ndarray, part: Part) -> np.ndarray:
    """Which rows of one kind are of a part: of the files with the lowest hashes all are held out,
    so never none, and never some seconds of a video that others are trained on."""
    files = np.unique(hashes)
    if len(hashes) < SMALL or len(files) < FEW:
        return np.ones(len(hashes), bool)
    held_out = hashes <= files[ceil(len(files) / HELD_OUT) - 1]
    return held_out == (part == "test")


class _Shuffle:
    """Endless positions -> rows of one kind, shuffled block by block."""

    def __init__(self, own: np.ndarray, block: np.ndarray, seed: int, *, spare: np.ndarray):
        self.which, self.spare = np.flatnonzero(own), np.flatnonzero(spare)
        self.count = len(self.which)
        self._order = Shuffled(np.bincount(block[self.which]).tolist(), seed)
        self.seed = seed
        self._asked: tuple[int, int] | None = None

    def saw(self, position: int) -> None:
        """Take note of what is asked for."""
        first, last = self._asked or (position, position)
        self._asked = min(first, position), max(last, position)

    @property
    def tried(self) -> int:
        """How far this run has come, in all its processes: each is asked for some of the positions
        from where it began."""
        return 0 if self._asked is None else self._asked[1] - self._asked[0] + 1

    def __getitem__(self, position: int) -> int:
        return int(self.which[self._order[position]])

    def other(self, position: int, attempt: int) -> int:
        """A row instead: after the first attempts a spare one."""
        rows = self.which if attempt < OWN else self.spare
        return int(rows[mixed(self.seed, position, attempt) % len(rows)])


def example_of(
    row: Row, format: VideoFormat, crop: Crop, at: Place, *, captioned: bool = True
) -> Example:
    """What a row shows; ValueError if it cannot be used."""
    if row.broken:
        raise ValueError(f"{str(row.media)!r}: {row.broken}")
    if captioned and not row.caption:
        raise ValueError(f"{str(row.media)!r} has no caption")
    if not 0 <= row.start < row.end:
        raise ValueError(f"{str(row.media)!r} is to be used from {row.start} s to {row.end} s")
    if row.height and row.width:
        covering(row.height, row.width, format)
    if row.fps:
        slowing(row.end - row.start, row.fps, format)
    slowed = 1.0
    try:
        if row.kind == "image":
            video = fitted(read_image(row.media), format, crop, at=at)[None]
        else:
            video, slowed = read_clip(row.media, format, crop, span=(row.start, row.end), at=at)
    except (ValueError, Unreachable):
        raise
    except Exception as error:  # of decoders on broken data, whatever they raise
        kind = "" if isinstance(error, OSError) else f"{type(error).__name__}: "
        raise ValueError(f"cannot read {str(row.media)!r}: {kind}{error}") from error
    facts = {"path": str(row.media)} | ({"slowed": f"{slowed:.3g}"} if slowed > 1 else {})
    return Example(video, row.caption, facts)
