"""What an evaluation is asked for, and what it needs: networks, judges, true clips."""

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from imagen_video.data.stickers.concepts import COLOURS
from imagen_video.data.stickers.evaluation import FIELDS
from imagen_video.evaluation.prompts import STICKERS, Prompt, facts_by_text
from imagen_video.evaluation.records import Tools
from imagen_video.evaluation.reference import DataReference, Reference, StickerReference, rotation
from imagen_video.evaluation.run import Counts, Evaluation
from imagen_video.metrics.alignment import Aligner, ClipAligner, MatcherAligner
from imagen_video.metrics.features import clip_extractor, digest, frame_extractor
from imagen_video.metrics.matcher import Matcher
from imagen_video.metrics.panel import MATCHER, SHIPPED, Panel
from imagen_video.metrics.words import reader
from imagen_video.presets import SHORT_CAPTIONS
from imagen_video.text.encoder import load_encoder

PROXY = "proxy"
CLIPS = 128
KNOWN = {*FIELDS, "word"}
"""Facts that can be checked in the sticker world."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSpec:
    """What is measured. Samples are `count` prompts times `seeds`; sample i has seed `seed` + i.
    `reference_clips` are CLIPS, or as many as there are prompts if these are more."""

    prompts: str = STICKERS
    count: int | None = None
    seeds: int = 1
    reference: tuple[str, ...] = (STICKERS,)
    reference_clips: int | None = None
    own: int | None = None
    until: str | None = None
    steps: int | None = None
    guidance: float | None = None
    seed: int = 0
    frame_features: str = PROXY
    clip_features: str = PROXY
    clip: str = PROXY
    device: str = "cpu"

    def __post_init__(self):
        if self.seeds < 1:
            raise ValueError(f"seeds must be 1 or more, got {self.seeds}")
        if self.reference_clips is not None and self.reference_clips < 2:
            raise ValueError(f"reference_clips must be 2 or more, got {self.reference_clips}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must lie in 0..2^63 - 1, got {self.seed}")


def asked_of(prompts: Sequence[Prompt]) -> list[str | dict[str, str]]:
    """Prompts as the settings have them: with the facts that a file gives them."""
    known = facts_by_text()
    return [
        p.text if p.facts in ({}, known.get(p.text)) else {"prompt": p.text, **p.facts}
        for p in prompts
    ]


def counts_of(
    prompts: Sequence[Prompt], spec: EvaluationSpec, reference: Reference | Path, *, own: bool
) -> Counts:
    """How many clips there are of each kind; ValueError for one sample, of which no distribution
    is known."""
    samples, clips = len(prompts) * spec.seeds, spec.reference_clips
    if samples < 2:
        raise ValueError("distances need two videos or more: ask for a larger --count or --seeds")
    clips = max(CLIPS, len(prompts)) if clips is None else clips
    if clips < len(prompts) and isinstance(reference, StickerReference):
        warnings.warn(
            f"the reference has clips of {clips} of {len(prompts)} prompts: more --reference-clips "
            "compare with all",
            stacklevel=2,
        )
    return Counts(
        samples=samples,
        reference=clips,
        own=(samples if spec.own is None else spec.own) if own else 0,
    )


def tools_of(spec: EvaluationSpec, prompts: Sequence[Prompt]) -> Tools:
    """What the spec names; the judges and the matcher of the sticker world only where the prompts
    are of that world."""
    told = [bool(KNOWN & set(prompt.facts)) for prompt in prompts]
    known = all(told)
    if any(told) and not known:
        warnings.warn("some prompts are not of the sticker world: nothing is judged", stacklevel=2)
    if not any(told) and list(spec.reference) == [STICKERS]:
        warnings.warn(
            "the prompts name nothing of the sticker world and are compared with any of its clips: "
            "give --reference",
            stacklevel=2,
        )
    aligner: Aligner | None = None
    if spec.clip != PROXY:
        aligner = ClipAligner(spec.clip, spec.device)
    elif known:
        matcher = Matcher.load(SHIPPED / f"{MATCHER}.safetensors")
        aligner = MatcherAligner.of(matcher, load_encoder(SHORT_CAPTIONS))
    else:
        warnings.warn("alignment is not measured: give --clip, a model that knows", stacklevel=2)
    words = None
    if any("word" in prompt.facts for prompt in prompts):
        words = reader()
        if words is None:
            warnings.warn(
                "words are not read: sh install.sh words, then evaluate into another --out",
                stacklevel=2,
            )
    return Tools(
        frames=frame_extractor(spec.frame_features, spec.device),
        clips=clip_extractor(spec.clip_features, spec.device),
        aligner=aligner,
        panel=Panel.load(SHIPPED, COLOURS) if known else None,
        rotation=rotation if known else None,
        words=words,
    )


def reference_of(names: Sequence[str], prompts: Sequence[Prompt], out: Path) -> Reference | Path:
    """True clips of the sticker world, of the user's data, or what was kept of such clips."""
    if list(names) == [STICKERS]:
        return StickerReference(prompts)
    if len(names) == 1 and names[0].endswith(".safetensors"):
        if not Path(names[0]).is_file():
            raise ValueError(f"no reference at {names[0]}: an evaluation writes one into its --out")
        warnings.warn(
            f"{names[0]} holds features only: no true clips are measured beside, and no stage from "
            "true low-resolution video",
            stacklevel=2,
        )
        return Path(names[0])
    return DataReference.of(names, out)


def settings_for(
    spec: EvaluationSpec, prompts: Sequence[Prompt], evaluation: Evaluation
) -> dict[str, Any]:
    """What was asked for, as the settings have it."""
    return {
        "counts": asdict(evaluation.counts),
        "asked": asked_of(prompts),
        "reference": named(evaluation.reference, spec.reference),
        "seed": spec.seed,
        "until": spec.until,
        "steps": spec.steps,
        "guidance": spec.guidance,
    }


def named(reference: Reference | Path, names: Sequence[str]) -> list[str]:
    """The reference as the settings have it: of data, with what tells its content."""
    if isinstance(reference, DataReference):
        places = reference.source.position(0, 0).items()
        return [f"{name} ({place.content[:16]})" for name, place in places]
    return [f"{reference} ({digest(reference)})"] if isinstance(reference, Path) else list(names)
