"""Where training data comes from: names on the command line -> one source, mixed by weight."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from imagen_video.data.bad_samples import BadSamples
from imagen_video.data.clips import Crop, Example, Position, Source
from imagen_video.data.library import MediaSource, Part
from imagen_video.data.order import fraction
from imagen_video.data.rows import TABLES, Rows, files_below, of_folder, of_manifest
from imagen_video.data.stickers.source import StickerSource
from imagen_video.data.tars import expanded, of_tar
from imagen_video.video import VideoFormat

# In so many turns every source has its exact share of them, rounded, and at least one.
ROUND = 1000


def open_source(
    names: Sequence[str],
    *,
    seed: int,
    bad: BadSamples,
    cropping: Literal["random", "centre"] = "random",
    part: Part = "train",
    captioned: bool = True,
) -> Source:
    """The mixture of `names`: each NAME or NAME=WEIGHT (1 by default); not `captioned`: files
    without a caption too.

    A name is "stickers"; a folder of videos, images and tars; a manifest (.jsonl, .csv,
    .parquet); or tars, as paths or URLs, with {000..012} for many. ValueError if it is nothing of
    these, or holds nothing.
    """
    if not names:
        raise ValueError("name at least one source of data, such as stickers or a folder")
    if len({_weighed(name)[0] for name in names}) < len(names):
        raise ValueError(f"name a source once, with a weight (NAME=2): got {' '.join(names)}")
    parts = []
    for name, weight in map(_weighed, names):
        if name == "stickers":
            parts.append((StickerSource(seed, part=part), weight))
            continue
        rows = rows_of(name)
        media = MediaSource(name, rows, seed=seed, bad=bad, cropping=cropping, part=part)
        media.captioned = captioned
        parts.append((media, weight))
    return parts[0][0] if len(parts) == 1 else Mixture(parts, seed=seed)


def _weighed(name: str) -> tuple[str, float]:
    before, sign, after = name.rpartition("=")
    # In "http://a/b.tar?expires=12" the sign is the query's own, which one behind it would follow.
    parameter = re.split("[?&]", before)[-1] if "?" in before else "="
    if Path(name).exists() or "=" not in parameter:
        return name, 1.0
    try:
        weight = float(after) if sign else 1.0
    except ValueError:
        return name, 1.0  # a path with "=" in it
    if not 0 < weight < float("inf"):
        raise ValueError(f"the weight of a source is above 0, got {name!r}")
    return (before, weight) if sign else (name, weight)


def rows_of(name: str) -> Rows:
    """What a folder, a manifest or tars hold, with a weight or without; ValueError if the name is
    nothing of these."""
    return Rows(_blocks(_weighed(name)[0]))


def _blocks(name: str) -> Iterable[Iterable[dict[str, Any]]]:
    """The rows of a name, those of every tar apart."""
    path = Path(name)
    if ".tar" in map(str.lower, path.suffixes) or "://" in name:
        return map(of_tar, expanded(name))
    if path.is_dir():
        tars = [found for found in files_below(path) if found.suffix.lower() == ".tar"]
        return [*map(of_tar, map(str, tars)), of_folder(path)]
    if name == "stickers":
        raise ValueError("stickers are drawn when they are asked for: name a folder or the like")
    if not path.is_file():
        raise ValueError(
            f"there is no source {name!r}: give stickers, a folder, a manifest or tars"
        )
    if path.suffix.lower() not in TABLES:
        raise ValueError(f"a manifest ends in {', '.join(TABLES)}, got {name!r}")
    return [of_manifest(path)]


class Mixture:
    """Sources that take turns, each with its share of the clips and of the stills.

    Stills come from sources with images, where there are any. Turns are a function of the
    position alone, so the position says how many samples each source has given.
    """

    def __init__(self, parts: Sequence[tuple[Source, float]], *, seed: int):
        self.sources = [source for source, _ in parts]
        self.kinds = frozenset().union(*(source.kinds for source in self.sources))
        stills = [part for part in parts if "image" in part[0].kinds]
        clips = [part for part in parts if "video" in part[0].kinds]
        self._clips = _Turns(clips, seed) if clips else None
        self._stills = _Turns(stills or clips, seed + 1)

    def clip(self, index: int, format: VideoFormat, crop: Crop) -> Example:
        if self._clips is None:
            raise ValueError("no source holds videos: a stage with clips needs some")
        source, position = self._clips[index]
        return source.clip(position, format, crop)

    def image(self, index: int, format: VideoFormat, crop: Crop) -> Example:
        source, position = self._stills[index]
        return source.image(position, format, crop)

    def position(self, clips: int, stills: int) -> dict[str, Position]:
        given = self._clips.given(clips) if self._clips else {}
        shown = self._stills.given(stills)
        return {
            name: position
            for source in dict.fromkeys([*given, *shown])
            for name, position in source.position(
                given.get(source, 0), shown.get(source, 0)
            ).items()
        }


def captions_in(source: Source) -> Iterator[str]:
    """What the samples of files say, where they say something; those of stickers have no end."""
    if isinstance(source, Mixture):
        for part in source.sources:
            yield from captions_in(part)
    elif isinstance(source, MediaSource):
        yield from (row.caption for row in source.rows if row.caption)


class _Turns:
    """Endless positions -> a source and a position in it."""

    def __init__(self, parts: Sequence[tuple[Source, float]], seed: int):
        self.sources = [source for source, _ in parts]
        total = sum(weight for _, weight in parts)
        self.counts = [max(1, round(ROUND * weight / total)) for _, weight in parts]
        who = [i for i, count in enumerate(self.counts) for _ in range(count)]
        order = sorted(range(len(who)), key=lambda turn: fraction(seed, turn))
        self.who = [who[turn] for turn in order]
        seen = [0] * len(parts)
        self.before = []
        for i in self.who:
            self.before.append(seen[i])
            seen[i] += 1

    def __getitem__(self, index: int) -> tuple[Source, int]:
        rounds, turn = divmod(index, len(self.who))
        i = self.who[turn]
        return self.sources[i], rounds * self.counts[i] + self.before[turn]

    def given(self, count: int) -> dict[Source, int]:
        """How many of the first `count` turns were each source's."""
        rounds, rest = divmod(count, len(self.who))
        return {
            source: rounds * self.counts[i] + self.who[:rest].count(i)
            for i, source in enumerate(self.sources)
        }
