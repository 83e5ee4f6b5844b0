"""What is kept of one clip: features, answers and numbers, never its pixels.

A record is a file, written whole or not at all, so a killed evaluation goes on where it was and
many processes share a folder.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from imagen_video.files import replacing
from imagen_video.metrics.alignment import Aligner
from imagen_video.metrics.features import Extractor, Facts, Network, digest_of
from imagen_video.metrics.panel import Panel
from imagen_video.metrics.upsampling import WARPED, flicker, warping_error
from imagen_video.shapes import Float, UInt8
from imagen_video.video import Frames

Start = UInt8[Tensor, "start_f c h w"]
SPACED = 16
"""Frames, evenly spaced over a clip, that features are taken from and judges look at."""
RUN = 17
"""Frames in a row, from the beginning, that motion is measured on."""


@dataclass(frozen=True)
class Record:
    """Of one clip: a vector a frame, a vector of the whole, vectors to compare with prompts
    (none where there is no aligner), and facts as JSON."""

    frames: Float[Tensor, "n d"]
    clip: Float[Tensor, " c"]
    aligned: Float[Tensor, "m e"]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """ValueError for features that are not finite."""
        tensors = {"frames": self.frames, "clip": self.clip, "aligned": self.aligned}
        if not all(value.isfinite().all() for value in tensors.values()):
            raise ValueError(
                f"features of a video are not finite ({'/'.join(path.parts[-3:])}): look at it, or "
                "use other --frame-features, --clip-features or --clip"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            save_file(
                {name: value.contiguous() for name, value in tensors.items()},
                temporary,
                metadata={"facts": json.dumps(self.facts)},
            )

    @classmethod
    def load(cls, path: Path) -> "Record":
        try:
            with safe_open(path, framework="pt") as file:
                facts = json.loads((file.metadata() or {})["facts"])
                frames, clip = file.get_tensor("frames"), file.get_tensor("clip")
                return cls(frames, clip, file.get_tensor("aligned"), facts)
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"{path} is no record ({error}): delete it") from None


@dataclass(frozen=True)
class Features:
    """Of many clips: a vector a frame, a vector a clip, and what each shows, in words."""

    frames: Float[Tensor, "v n d"]
    clips: Float[Tensor, "v c"]
    prompts: Sequence[str]

    @classmethod
    def of(cls, records: Sequence[Record]) -> "Features":
        frames = torch.stack([record.frames for record in records])
        clips = torch.stack([record.clip for record in records])
        return cls(frames, clips, [record.facts["prompt"] for record in records])

    @classmethod
    def load(cls, path: Path, format: str, facts: str) -> "Features":
        """Those of one format in a file of `save_features`; ValueError where it does not fit."""
        if not path.is_file():
            raise ValueError(
                f"no reference at {path}: give stickers, data, or the reference.safetensors that "
                "an evaluation wrote"
            )
        try:
            with safe_open(path, framework="pt") as file:
                told = json.loads((file.metadata() or {})["facts"])
                made_by, prompts = told["made by"], told["prompts"][format]
                frames, clips = (file.get_tensor(f"{format}/{n}") for n in ("frames", "clips"))
        except (SafetensorError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} holds no features of {format}: evaluate the same stages ({error})"
            ) from None
        if made_by != facts:
            raise ValueError(f"{path} was made by {made_by}, not by {facts}: use one extractor")
        return cls(frames, clips, prompts)


def save_features(path: Path, formats: Mapping[str, Features], facts: str) -> None:
    """The features of reference clips by format."""
    tensors = {
        f"{format}/{name}": value.contiguous()
        for format, features in formats.items()
        for name, value in (("frames", features.frames), ("clips", features.clips))
    }
    prompts = {format: list(features.prompts) for format, features in formats.items()}
    # One entry: several come in any order, and the file's digest travels with the numbers.
    told = json.dumps({"made by": facts, "prompts": prompts})
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"facts": told})


@dataclass(frozen=True)
class Tools:
    """What looks at clips; None for what is not there."""

    frames: Extractor
    clips: Extractor
    aligner: Aligner | None = None
    panel: Panel | None = None
    words: Callable[[Frames], str] | None = None
    rotation: Callable[[Frames, Mapping[str, Any]], str | None] | None = None

    def record(self, video: Frames, start: Start | None = None, **facts: Any) -> Record:
        """Of a video; `start` are its first frames, at its own rate, where it is a selection."""
        spaced = evenly(video)
        first = video[:RUN] if start is None else start
        found = self.features(spaced)
        whole = start is None and len(spaced) == len(video)  # and spaced is first
        facts |= {
            "warping": warping_error(first),
            "flicker": flicker(found.frames if whole else self.frames(first)),
        }
        if self.panel:
            facts["answers"] = self.panel(spaced)
        asked = facts.get("asked", {})
        turned = self.rotation(spaced, asked) if self.rotation else None
        if turned:  # by the views; the network that knows the flat motions cannot tell it
            facts["asked"] = {k: v for k, v in asked.items() if k != "motion"}
            facts["asked"]["rotation"] = asked["motion"]
            facts["answers"] = {**facts.get("answers", {}), "rotation": turned}
        if self.words and "word" in asked:
            answers = {**facts.get("answers", {}), "word": self.words(video)}
            facts |= {
                "answers": answers,
                "asked": {**facts["asked"], "word": asked["word"].upper()},
            }
        aligned = torch.zeros(0, 0)
        if self.aligner and self.aligner.fits(len(spaced), spaced.shape[-2]):
            aligned = self.aligner.video(spaced)
        return replace(found, aligned=aligned, facts=facts)

    def features(self, spaced: Frames, prompt: str = "") -> Record:
        """What distributions are fitted on, and nothing else: matching the blocks of a large clip
        takes a minute."""
        frames, clips = self.frames(spaced), self.clips
        if isinstance(clips, Network) and clips.over and _same(clips.facts, self.frames.facts):
            clip = clips.over(frames)[0]
        else:
            clip = clips(spaced)[0]
        return Record(
            frames=frames,
            clip=clip,
            aligned=torch.zeros(0, 0),
            facts={"prompt": prompt},
        )


def _same(a: Facts, b: Facts) -> bool:
    """Whether both are made of the same features of frames."""
    return (a.weights, a.resize) == (b.weights, b.resize)


def looked_at(frames: int) -> list[int]:
    """Which of so many frames are looked at: at most SPACED, evenly spaced. Of each stretch it is
    the last: the first of an upsampled video is one that its temporal stages were given."""
    count = min(SPACED, frames)
    return [(i + 1) * frames // count - 1 for i in range(count)]


def evenly(video: Frames) -> UInt8[Tensor, "n c h w"]:
    """The frames that are looked at."""
    if len(video) < 3:
        raise ValueError(f"a video of {len(video)} frames cannot be evaluated: give 3 or more")
    return video[looked_at(len(video))]


def settings_of(tools: Tools, **more: Any) -> dict[str, Any]:
    """What travels with every number: the networks and their hashes, resizes, and `more`."""
    networks = {"frames": tools.frames.facts, "clips": tools.clips.facts}
    if tools.aligner:
        networks["prompts"] = tools.aligner.facts
    judges = [digest_of(judge.network) for judge in tools.panel.judges] if tools.panel else []
    facts = {name: asdict(found) for name, found in networks.items()}
    looked = {
        "spaced frames": f"{SPACED}, each the last of its stretch",
        "frames in a row": RUN,
        "warped at most": WARPED,
        "words": "RapidOCR" if tools.words else "not read",
    }
    return facts | {"judges": judges} | looked | more
