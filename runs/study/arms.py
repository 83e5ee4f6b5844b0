"""The table of arms: what is trained on what, how long, and how it is measured."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from imagen_video.data.stickers.scene import Attributes
from imagen_video.spec import GuidanceSpec, SamplerSpec, StageSpec, TrainSpec
from imagen_video.spec_unet import UNetSpec
from imagen_video.training.distill import DistillSpec
from imagen_video.training.student import Lesson
from imagen_video.video import VideoFormat
from study.library import BASE, FINE, Diet
from study.world import STILL_STYLE, held_out

SEEDS = (0, 1, 2)
REFERENCE = "reference/base"
GUIDED = GuidanceSpec(weight=2.0, interval=(-21.0, 0.0))
"""As mini's: while things are decided."""
SPACING = -1.5
"""The shift of the steps of a teacher that takes few, and of its students: as mini's."""
UPDATES, LEARNED_WEIGHTS = 200, (0.0, 4.0)
"""A round of a student takes."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One thing to compare, trained and measured once a seed.

    With a `lesson` it is a student of the arm `of`, for `train`. Without that and a `stage` it
    trains nothing: the weights are those of `of`, the arm that it samples from (for an upsampling
    stage, the base before it). `looks` are steps at which it is measured on the way.
    """

    study: str
    name: str
    measure: str
    stage: StageSpec | None = None
    lesson: Lesson | None = None
    train: TrainSpec | None = None
    diet: Diet | None = None
    of: str | None = None
    looks: tuple[int, ...] = ()
    kept: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return f"{self.study}/{self.name}"

    @property
    def trains(self) -> bool:
        return self.stage is not None or self.lesson is not None


def always(facts: Attributes) -> float:
    return 1.0


def shown(facts: Attributes) -> float:
    """Nothing that is held out."""
    return 0.0 if held_out(facts) else 1.0


def without_still_style(facts: Attributes) -> float:
    return 0.0 if facts.style == STILL_STYLE else 1.0


SKEW = {
    "background": {"red": 1.0, "blue": 0.5, "green": 0.25, "yellow": 0.25},
    "style": {"flat vector art": 1.0, "glossy cartoon": 0.5, "hand drawn clip art": 0.25},
    "motion": {"moving left to right": 0.25, "rising": 1.0, "falling": 0.5, "growing": 0.5},
}
"""How often the data of study 8 takes what shows these."""


def skewed(facts: Attributes) -> float:
    share = shown(facts)
    for part, shares in SKEW.items():
        share *= shares.get(getattr(facts, part), 1.0)
    return share


STICKERS = Diet(library="base", clips=shown, stills=always)


def base_stage(widths: Sequence[int] = (64, 128), **train: int) -> StageSpec:
    """The base of the sub-world; clips and stills as in `mini`'s recipe."""
    unet = UNetSpec(
        widths=tuple(widths),
        blocks=(1, 2),
        temporal="attention",
        temporal_levels=(0, 1),
        attention_levels=(1,),
        cross_levels=(0,),
        patch=2,
        head_dim=32,
        embed_dim=128,
        predicts="x",
    )
    return StageSpec(
        name="base",
        output=BASE,
        unet=unet,
        sampler=SamplerSpec(num_steps=16, guidance=GUIDED),
        train=_train(**({"steps": 1200, "clips": 6, "image_packs": 10} | train)),
        logsnr_shift=-3.0,
        image_logsnr_shift=-1.0,
        max_weight=4.0,
    )


def _train(*, steps: int, clips: int, image_packs: int = 0) -> TrainSpec:
    return TrainSpec(
        steps=steps,
        clips=clips,
        image_packs=image_packs,
        learning_rate=1e-3,
        warmup=100,
        cooldown=steps // 4,
        ema=0.99,
    )


def fine_stage(*, aug_max: float = 0.3) -> StageSpec:
    """8x24x24 to 8x48x48."""
    unet = UNetSpec(
        widths=(48, 96),
        blocks=(1, 2),
        temporal="conv",
        temporal_levels=(0, 1),
        attention_levels=(1,),
        patch=2,
        head_dim=32,
        embed_dim=128,
        predicts="x",
    )
    return StageSpec(
        name="ssr",
        input=BASE,
        output=FINE,
        unet=unet,
        sampler=SamplerSpec(num_steps=8, guidance=GuidanceSpec(weight=1.0), aug_logsnr=5.0),
        train=_train(steps=1200, clips=4),
        logsnr_shift=-3.0,
        max_weight=2.0,
        aug_max=aug_max,
    )


def crop_stage(predicts: str) -> StageSpec:
    """The 48x80 to 192x320 stage on crops, in v or in eps, each with its own plain loss."""
    unet = UNetSpec(
        widths=(32, 64, 96),
        blocks=(1, 1, 2),
        temporal="conv",
        temporal_levels=(0, 1, 2),
        attention_levels=(2,),
        head_dim=32,
        embed_dim=128,
        norm="layer",
        predicts=predicts,  # pyright: ignore[reportArgumentType]
    )
    return StageSpec(
        name="ssr2",
        input=VideoFormat(FINE.frames, FINE.height // 4, FINE.width // 4, FINE.fps),
        output=FINE,
        unet=unet,
        sampler=SamplerSpec(num_steps=24, guidance=GuidanceSpec(weight=0.5), aug_logsnr=8.0),
        train=_train(steps=1200, clips=4),
        weighting=predicts,  # pyright: ignore[reportArgumentType]
        logsnr_shift=-1.0,
        aug_max=0.15,
    )


def students(base: StageSpec) -> list[Arm]:
    """Of the reference: half the steps again and again, and for the stochastic sampler."""

    def student(name: str, of: str, **lesson: Any) -> Arm:
        taught = Lesson(weights=LEARNED_WEIGHTS, **lesson)
        return Arm(
            study="distillation",
            name=name,
            measure="base",
            lesson=taught,
            train=DistillSpec(updates=UPDATES, learning_rate=3e-4).train(base.train, taught),
            diet=STICKERS,
            of=of,
            kept=True,
        )

    eight, four = "distillation/8", "distillation/4"
    return [
        Arm(study="distillation", name="teacher", measure="steps", of=REFERENCE),
        student("8", REFERENCE, steps=8),
        student("4", eight, steps=4),
        student("2", four, steps=2),
        student("8 stochastic", eight, steps=8, overlapping=True),
    ]


def table() -> dict[str, Arm]:
    """Every arm by its key, in the order in which they are worth having."""
    crops = Diet(library="crops", clips=always, stills=always)
    fine = Diet(library="fine", clips=always, stills=always)
    base, few = base_stage(), replace(STICKERS, stills=without_still_style)
    rows = [
        Arm(study="reference", name="base", measure="base", stage=base, diet=STICKERS, kept=True),
        Arm(study="guidance", name="base", measure="guidance", of=REFERENCE),
        Arm(study="bias", name="even", measure="bias", of=REFERENCE),
        *(
            Arm(
                study="prediction",
                name=name,
                measure="crops",
                stage=crop_stage(name),
                diet=crops,
                looks=(200, 400, 800),
            )
            for name in ("v", "eps")
        ),
        Arm(study="joint", name="no line art", measure="base", stage=base, diet=few),
        Arm(
            study="joint",
            name="videos only",
            measure="base",
            stage=base_stage(clips=16, image_packs=0),
            diet=STICKERS,
        ),
        Arm(
            study="joint",
            name="fewer videos only",
            measure="base",
            stage=base_stage(image_packs=0),
            diet=STICKERS,
        ),
        Arm(study="size", name="small", measure="base", stage=base_stage((32, 64)), diet=STICKERS),
        Arm(study="size", name="large", measure="base", stage=base_stage((96, 192)), diet=STICKERS),
        *(
            Arm(
                study="bias",
                name=name,
                measure="bias",
                stage=base,
                diet=replace(STICKERS, clips=share, stills=share, unsaid=0.25),
            )
            for name, share in (("skewed", skewed), ("even, unsaid", shown))
        ),
        *(
            Arm(study=study, name=name, measure="fine", stage=stage, diet=diet, of=REFERENCE)
            for study, name, stage, diet in (
                ("reference", "ssr", fine_stage(), fine),
                ("augmentation", "none", fine_stage(aug_max=1e-3), fine),
                ("text", "base only", fine_stage(), replace(fine, untold=True)),
            )
        ),
        Arm(
            study="generalisation",
            name="all pairs",
            measure="base",
            stage=base,
            diet=replace(STICKERS, clips=always),
        ),
        Arm(
            study="generalisation",
            name="rotation",
            measure="turning",
            stage=base,
            diet=Diet(library="turning", clips=shown, stills=always),
        ),
        Arm(
            study="generalisation",
            name="words",
            measure="words",
            stage=base_stage(clips=4, image_packs=12),
            diet=Diet(library="words", clips=shown, stills=shown),
        ),
        *students(base),
    ]
    return {arm.key: arm for arm in rows}
