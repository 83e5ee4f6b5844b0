"""What is measured of a base: plain numbers, and clips for a sheet to look at."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import Tensor

from imagen_video.data.stickers.motions import SOLID_MOTIONS
from imagen_video.data.stickers.scene import Attributes
from imagen_video.evaluation.reference import rotation
from imagen_video.metrics.frechet import Moments, Target
from imagen_video.spec import GuidanceSpec
from imagen_video.stage import Stage
from imagen_video.video import Frames
from study.arms import SPACING, Arm
from study.judges import Eye, answer
from study.library import LIBRARIES, Diet
from study.probe import counted, shares_of
from study.sample import Clips, sampled, with_sampler
from study.train import Place
from study.world import (
    CONCEPTS,
    GROUNDS,
    HELD_OUT_WORDS,
    PARTS,
    STILL_STYLE,
    STYLES,
    THREE_LETTERS,
    TURNING_STYLE,
    caption,
    combinations,
    held_out,
    single,
    spelled,
)

FACTS = ("concept", "style", "motion", "background")
WEIGHTS = (2.0, 5.0, 10.0, 20.0)
"""Of study 5; the paper's alternate with 1."""
CONSTANT_STEPS = 4
BIAS_WEIGHTS = (0.0, 2.0, 6.0)
FEW_STEPS = (16, 8, 4, 2)
EACH = 16
"""Clips of every neutral prompt."""
SHEET_ROWS = 16


@dataclass(frozen=True)
class Subject:
    """A trained arm to be measured, and what it takes to do so."""

    arm: Arm
    seed: int
    place: Place
    stage: Stage
    diet: Diet
    before: Stage | None = None
    """The base that an upsampling stage is put on."""

    @cached_property
    def eye(self) -> Eye:
        """The judge of the base's clips."""
        return self.named_eye("moves")

    def named_eye(self, name: str) -> Eye:
        return Eye(self.place.carried / "judges" / f"{name}.safetensors", self.place.device)

    def truth(self, name: str) -> dict[str, Tensor]:
        return LIBRARIES[name].opened(self.place.libraries)

    def made(self, asked: Sequence[Attributes], stage: Stage | None = None) -> Clips:
        """A clip of every scene that is asked for."""
        captions = [caption(facts) for facts in asked]
        return sampled(stage or self.stage, self.place.encoder, captions, seed=self.seed)


@dataclass(frozen=True)
class Measured:
    """Numbers by name, and clips for the sheet."""

    facts: dict[str, Any]
    shown: Sequence[Frames]


def rights(
    asked: Sequence[Attributes], seen: Sequence[dict[str, str]], parts: Sequence[str] = FACTS
) -> dict[str, tuple[int, int]]:
    """(right, of) for every question, and for all of them at once."""
    marks = [
        [answer(a, part) == s[part] for part in parts] for a, s in zip(asked, seen, strict=True)
    ]
    found = {part: (sum(m[i] for m in marks), len(marks)) for i, part in enumerate(parts)}
    return found | {"everything": (sum(all(m) for m in marks), len(marks))}


def by_group(
    groups: Sequence[str],
    asked: Sequence[Attributes],
    seen: Sequence[dict[str, str]],
    parts: Sequence[str] = FACTS,
) -> dict[str, dict[str, tuple[int, int]]]:
    """`rights` of the scenes of each group."""
    found = {}
    for group in dict.fromkeys(groups):
        rows = [i for i, name in enumerate(groups) if name == group]
        found[group] = rights([asked[i] for i in rows], [seen[i] for i in rows], parts)
    return found


def every_scene(seed: int) -> list[Attributes]:
    """Every thing in every style and motion, held-out pairs twice more on other grounds."""

    def turned(facts: Attributes, by: int) -> Attributes:
        place = GROUNDS.index(facts.background) + by
        return replace(facts, background=GROUNDS[place % len(GROUNDS)])

    scenes = [turned(facts, seed) for facts in combinations((*STYLES, STILL_STYLE))]
    rare = [f for f in scenes if held_out(f) and f.style != STILL_STYLE]
    return [*scenes, *(turned(facts, by) for facts in rare for by in (1, 2))]


def group_of(facts: Attributes) -> str:
    if facts.style == STILL_STYLE:
        return "style of stills"
    return "held out" if held_out(facts) else "seen"


def base(subject: Subject) -> Measured:
    """How often each fact is right, of what training showed and of what it did not, and how far
    the clips of moving styles are from true ones."""
    facts, clips = all_scenes(subject, subject.stage)
    return Measured(facts, list(clips[:SHEET_ROWS]))


def all_scenes(subject: Subject, stage: Stage) -> tuple[dict[str, Any], Clips]:
    """What is found in a clip of every scene, and the clips."""
    asked = every_scene(subject.seed)
    clips = subject.made(asked, stage)
    groups = [group_of(facts) for facts in asked]
    moving = [clip for clip, group in zip(clips, groups, strict=True) if group != "style of stills"]
    facts = {
        "right": by_group(groups, asked, subject.eye(list(clips))),
        "frechet": distance(subject, moving),
    }
    return facts, clips


def few_steps(subject: Subject) -> Measured:
    """As `base`, in fewer and fewer steps."""
    rows, shown = [], []
    for steps in FEW_STEPS:
        stage = with_sampler(subject.stage, num_steps=steps, logsnr_shift=SPACING)
        facts, clips = all_scenes(subject, stage)
        rows.append(facts | {"steps": steps})
        shown += clips[: SHEET_ROWS // len(FEW_STEPS)]
    return Measured({"rows": rows}, shown)


def distance(subject: Subject, clips: Sequence[Frames]) -> float:
    """The Frechet distance from true clips, of what the judge sees in them."""
    truth = subject.eye.features(list(subject.truth("truth")["clips"]))
    return Target(Moments.of(truth)).of(subject.eye.features(clips))


def guidance(subject: Subject) -> Measured:
    """Saturation and alignment by weight, constant and oscillating, under both thresholds."""
    asked = [f for f in combinations() if not held_out(f)][::2]
    settings = {"off": GuidanceSpec()}
    for weight in WEIGHTS:
        settings[f"constant {weight:g}"] = GuidanceSpec(weight=weight)
        settings[f"oscillating {weight:g}"] = GuidanceSpec(
            weight=weight, low=1.0, constant_steps=CONSTANT_STEPS
        )
    rows, shown = [], []
    for name, spec in settings.items():
        for threshold in ("static", "dynamic") if spec.on else ("static",):
            stage = with_sampler(subject.stage, guidance=spec, threshold=threshold)
            clips = subject.made(asked, stage)
            row = {"guidance": name, "weight": spec.weight, "threshold": threshold}
            row |= colourfulness(clips) | {"frechet": distance(subject, list(clips))}
            rows.append(row | {"right": rights(asked, subject.eye(list(clips)))})
            shown.append(clips[0])
    truth = subject.truth("truth")["clips"]
    return Measured({"settings": rows, "truth": colourfulness(truth)}, shown)


def colourfulness(clips: Clips) -> dict[str, float]:
    """Mean saturation (of HSV, in [0, 1]), and the share of values at either end of their range."""
    most, least = clips.amax(2).float(), clips.amin(2).float()
    saturation = ((most - least) / most.clamp(min=1)).mean().item()
    return {
        "saturation": saturation,
        "clipped": ((clips == 0) | (clips == 255)).float().mean().item(),
    }


def bias(subject: Subject) -> Measured:
    """What is made of prompts that name a thing and nothing else, and what the data holds."""
    library = LIBRARIES[subject.diet.library].facts("clips")
    data = [library[i].known() for i in subject.diet.chosen("clips")]
    asked = [single(concept, STYLES[0], None, GROUNDS[0]) for concept in CONCEPTS] * EACH
    captions = [caption(facts, PARTS) for facts in asked]
    found, shown = {}, []
    for weight in BIAS_WEIGHTS:
        stage = with_sampler(
            subject.stage, guidance=replace(subject.stage.spec.sampler.guidance, weight=weight)
        )
        clips = sampled(stage, subject.place.encoder, captions, seed=subject.seed)
        seen = subject.eye(list(clips))
        found[f"{weight:g}"] = {
            "counts": counted(seen),
            "right": rights(asked, seen, ("concept",)),
        }
        shown += clips[: SHEET_ROWS // 2]
    expected = {part: shares_of(data, part) for part in PARTS}
    return Measured({"weights": found, "data": expected}, shown)


def turning(subject: Subject) -> Measured:
    """Rotation of things that training showed rotating and of those that it did not; and what the
    judges see in true clips."""
    asked = [
        single(concept, TURNING_STYLE, motion, ground)
        for concept in CONCEPTS
        for motion in SOLID_MOTIONS
        for ground in GROUNDS[:2]
    ]
    clips = list(subject.made(asked))
    groups = ["held out" if held_out(facts) else "seen" for facts in asked]
    library = LIBRARIES["turning"]
    true = [i for i, f in enumerate(library.facts("clips")) if f.motion in SOLID_MOTIONS][:96]
    asked += [library.facts("clips")[i] for i in true]
    pixels = subject.truth("turning")["clips"]
    seen = subject.eye([*clips, *pixels[true]])
    parts = ("concept", "motion", "background")
    found = by_group([*groups, *["truth"] * len(true)], asked, seen, parts)
    everything = [*zip(groups, asked, clips, strict=False)]
    everything += [("truth", library.facts("clips")[i], pixels[i]) for i in true]
    for group in found:
        marks = [rotation(clip, f.known()) == f.motion for g, f, clip in everything if g == group]
        found[group]["direction"] = (sum(marks), len(marks))
    return Measured({"right": found}, clips[:SHEET_ROWS])


def words(subject: Subject) -> Measured:
    """How often letters and words are right, of those seen in training and of others."""
    known = [word for word in THREE_LETTERS if word not in HELD_OUT_WORDS]
    asked = [spelled(word, GROUNDS[i % 4]) for i, word in enumerate(known)]
    asked += [spelled(word, ground) for word in HELD_OUT_WORDS for ground in GROUNDS]
    clips = list(subject.made(asked))
    seen = subject.named_eye("reads")(clips)
    groups = ["held out" if held_out(facts) else "seen" for facts in asked]
    parts = ("letter 0", "letter 1", "letter 2", "background")
    found = by_group(groups, asked, seen, parts)
    return Measured({"right": found}, clips[:: len(clips) // SHEET_ROWS])
