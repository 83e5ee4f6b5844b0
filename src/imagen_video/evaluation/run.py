"""One evaluation: every clip that it needs, made or read, looked at once, recorded on disk.

Four sets of records lie in the output folder, each by stage and index:
`reference` (true clips to fit distributions on), `truth` (as many others as there are samples: what
a perfect model would score), `cascade` (the samples) and `own` (super-resolution stages from true
low-resolution video, so that a stage's own error and what it inherits are told apart).
"""

import json
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from imagen_video.cascade import Cascade
from imagen_video.data.clips import Example
from imagen_video.distributed import Ranks
from imagen_video.evaluation.prompts import Prompt
from imagen_video.evaluation.records import (
    RUN,
    SPACED,
    Features,
    Record,
    Tools,
    looked_at,
    save_features,
)
from imagen_video.evaluation.reference import DataReference, Reference, StickerReference
from imagen_video.evaluation.upsampled import Small, interpolated, made_small, own_psnr
from imagen_video.files import replacing
from imagen_video.metrics.upsampling import fidelity
from imagen_video.sampling import SampleSpec, save_video
from imagen_video.spec import StageSpec
from imagen_video.video import Frames, VideoFormat, resize, to_float, to_uint8

SETTINGS = "settings.json"
SHOWN = 192
"""Height of the videos that the report shows."""


@dataclass(frozen=True)
class Column:
    """What is evaluated apart: a stage's output, or a folder's videos."""

    name: str
    format: VideoFormat
    upsampling: bool = False


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many clips of each set."""

    samples: int
    reference: int
    own: int


@dataclass(kw_only=True)
class Evaluation:
    """Makes the records that a report is computed from; what is there already is not made again.

    Processes that share `out` share the work.
    """

    columns: list[Column]
    prompts: list[Prompt]
    counts: Counts
    tools: Tools
    reference: Reference | Path
    """True clips, or a file of `keep_references`."""
    out: Path
    ranks: Ranks
    shared: Path | None = None
    """Where true clips are recorded, if not in `out`."""

    def __post_init__(self):
        """ValueError where clips are too short for their features, or kept features of others."""
        for column in self.columns:
            seen, clips = min(SPACED, column.format.frames), self.tools.clips
            if seen < clips.shortest:
                raise ValueError(
                    f"{column.name} has {seen} frames to look at and {clips.facts.name} needs "
                    f"{clips.shortest} or more: give other --clip-features, or longer videos"
                )
            if isinstance(self.reference, Path):
                found = self.features(column.format)
                self.counts = replace(self.counts, reference=len(found.clips))

    @cached_property
    def first_truth(self) -> int:
        """True clips from here on are no reference; of clip `first_truth` + i the prompt is that
        of sample i."""
        of = len(self.prompts)
        return -(-self.counts.reference // of) * of

    def path(self, kind: str, column: str, index: int) -> Path:
        out = self.out if kind in ("cascade", "own") else self.shared or self.out
        return out / "records" / kind / column / f"{index:05}.safetensors"

    def missing(self, kind: str, column: str, count: int, label: str) -> Iterator[int]:
        """What this process still has to make, behind a bar; all records of a sample at once."""
        mine = range(self.ranks.rank, count, self.ranks.ranks)
        names = [c.name for c in self.columns] if kind == "cascade" else [column]
        todo = [i for i in mine if not all(self.path(kind, n, i).exists() for n in names)]
        bar = tqdm(todo, desc=label, unit="clip", disable=not todo or not self.ranks.first)
        yield from bar

    def settle(self, settings: dict[str, Any]) -> None:
        """Write down what the records are of; ValueError, on every process and before any work,
        where others lie in the folder."""
        other = []
        if self.ranks.first:
            self.out.mkdir(parents=True, exist_ok=True)
            path, wanted = self.out / SETTINGS, json.dumps(settings, indent=1, sort_keys=True)
            if path.exists():
                before, now = json.loads(path.read_text()), json.loads(wanted)
                other = [name for name in now if before.get(name) != now[name]]
            else:
                with replacing(path) as temporary:
                    temporary.write_text(wanted + "\n")
        other = self.ranks.told(other)
        if other:
            raise ValueError(
                f"{self.out} holds an evaluation with another {', '.join(other)}: "
                "choose another --out"
            )

    def make_references(self) -> None:
        """True clips, at every size once; and as many others as there are samples."""
        if isinstance(self.reference, Path):
            return
        wanted = self.first_truth + self.counts.samples
        if isinstance(self.reference, DataReference) and self.reference.repeats(wanted):
            warnings.warn(
                f"the reference holds fewer than {wanted} clips: true clips show some of it again "
                "and score too well; give more data, or a smaller --reference-clips",
                stacklevel=2,
            )
        for column in self.columns:
            format, seen = str(column.format), looked_at(column.format.frames)
            count, label = self.counts.reference, f"reference {format}"
            for i in self.missing("reference", format, count, label):
                true = self.reference.clip(i, column.format, seen)
                found = self.tools.features(true.video, self.shows(i, true.caption))
                found.save(self.path("reference", format, i))
            label = f"truth {column.name}"
            for i in self.missing("truth", column.name, self.counts.samples, label):
                truth = self.truth(self.reference, self.first_truth + i, column.format)
                truth.save(self.path("truth", column.name, i))

    def truth(self, reference: Reference, index: int, format: VideoFormat) -> Record:
        """What is seen in a true clip; its first frames are at the column's own rate."""
        seen, first = looked_at(format.frames), range(min(RUN, format.frames))
        whole = reference.clip(index, format, seen)
        start = None if seen == [*first] else reference.clip(index, format, first).video
        facts = {"prompt": whole.caption, "asked": dict(whole.attributes)}
        return self.tools.record(whole.video, start, **facts)

    def make_samples(
        self,
        cascade: Cascade,
        wanted: Callable[[int], SampleSpec],
        low: Callable[[int], tuple[Prompt, Small, Frames | None]] | None = None,
    ) -> None:
        """Run the cascade for every sample that lacks a record of its last stage, and look at what
        stages with a column make; stages that start from a video, from `low`: a prompt, what they
        start from, and the truth if known."""
        looked = [column.name for column in self.columns]
        for i in self.missing("cascade", self.columns[-1].name, self.counts.samples, "samples"):
            prompt, given, true = low(i) if low else (self.prompt(i), None, None)
            start = time.monotonic()
            for progress in cascade.stream([prompt.text], wanted(i), low=given):
                if progress.video is None or progress.stage not in looked:
                    continue
                facts: dict[str, Any] = {"seconds": time.monotonic() - start}
                if true is not None:
                    spec = cascade.spec.stage(progress.stage)
                    facts["psnr"] = own_psnr(progress.video, true, spec)
                self.keep_video(i, progress.stage, progress.video, progress.fps)
                facts |= {"prompt": prompt.text, "asked": dict(prompt.facts)}
                record = self.tools.record(progress.video, **facts)
                record.save(self.path("cascade", progress.stage, i))
                start = time.monotonic()

    def prompt(self, index: int) -> Prompt:
        return self.prompts[index % len(self.prompts)]

    def shows(self, index: int, caption: str) -> str:
        """What true clip `index` shows: the prompt that a sticker is drawn for, which its caption
        may say in other words."""
        return self.prompt(index).text if isinstance(self.reference, StickerReference) else caption

    def make_own(self, cascade: Cascade, wanted: Callable[[int, str], SampleSpec]) -> None:
        """Every upsampling stage alone, from true low-resolution video."""
        if isinstance(self.reference, Path):
            return
        for column in self.columns:
            if not column.upsampling:
                continue
            spec = cascade.spec.stage(column.name)
            label = f"own {column.name}"
            for i in self.missing("own", column.name, self.counts.own, label):
                whole = range(column.format.frames)
                true = self.reference.clip(self.first_truth + i, column.format, whole)
                made = self.own(cascade, spec, true, wanted(i, spec.name))
                made.save(self.path("own", column.name, i))

    def own(self, cascade: Cascade, spec: StageSpec, true: Example, wanted: SampleSpec) -> Record:
        """What a stage makes of a true clip made small, against that clip and against
        interpolation."""
        low = made_small(true.video, spec)
        made = None
        for progress in cascade.stream([true.caption], wanted, low=low):
            made = progress.video
        assert made is not None
        facts: dict[str, Any] = fidelity(made, true.video, spec.output.fps)
        facts["psnr"] = own_psnr(made, true.video, spec)
        facts["interpolated"] = own_psnr(interpolated(low, spec), true.video, spec)
        facts |= {"prompt": true.caption, "asked": dict(true.attributes)}
        return self.tools.record(made, **facts)

    def keep_video(self, index: int, name: str, video: Frames, fps: float) -> None:
        """The last stage's video, as large as the report shows it."""
        if name != self.columns[-1].name:
            return
        height, width = video.shape[-2:]
        if height > SHOWN:
            even = round(width * SHOWN / height / 2) * 2
            parts = [to_uint8(resize(to_float(p)[None], SHOWN, even))[0] for p in video.split(16)]
            video = torch.cat(parts)
        video = video[..., : height // 2 * 2, : width // 2 * 2]  # as H.264 wants it
        path = self.out / "videos" / f"{index:05}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_video(path, video, fps=fps, metadata={"prompt": self.prompt(index).text})

    def features(self, format: VideoFormat) -> Features:
        """Of the reference clips of a format, in float32."""
        if isinstance(self.reference, Path):
            return Features.load(self.reference, str(format), self.facts)
        return Features.of(self.records("reference", str(format), self.counts.reference))

    def keep_references(self) -> None:
        """Write the features of all reference clips as one file, for other evaluations."""
        if isinstance(self.reference, Path):
            return
        formats = {str(c.format): self.features(c.format) for c in self.columns}
        save_features(self.reference_path, formats, self.facts)

    @property
    def reference_path(self) -> Path:
        """Where the features of the reference clips are, or will be."""
        if isinstance(self.reference, Path):
            return self.reference
        return self.out / "reference.safetensors"

    @property
    def facts(self) -> str:
        """What features are made by: those of another network cannot be compared."""
        facts = [asdict(self.tools.frames.facts), asdict(self.tools.clips.facts)]
        return json.dumps(facts, sort_keys=True)

    def records(self, kind: str, column: str, count: int) -> list[Record]:
        """All records of a set that are there."""
        paths = [self.path(kind, column, i) for i in range(count)]
        return [Record.load(path) for path in paths if path.exists()]


def computed_by(cascade: Cascade) -> dict[str, str]:
    """What samples were computed on and in."""
    weight = next(cascade.stages[0].unet.parameters())
    return {"device": weight.device.type, "dtype": str(weight.dtype).removeprefix("torch.")}
