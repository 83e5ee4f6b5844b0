"""What may be asked for: requests as they come in, checked against what the cascade can make."""

import json
import math
import secrets
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from imagen_video.cascade import Cascade
from imagen_video.sampling import SampleSpec, override
from imagen_video.spec import CascadeSpec, StageSpec

PROMPT = 2000
"""Characters of a prompt; encoders read far fewer and cut the rest."""
Text = Annotated[str, Field(max_length=PROMPT)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Steps = Annotated[int, Field(ge=1, le=256)]
Weight = Annotated[float, Field(ge=0, le=50, allow_inf_nan=False)]


class StageSettings(BaseModel):
    """Sampling of one stage, otherwise than by default."""

    model_config = ConfigDict(extra="forbid")
    steps: Steps | None = None
    guidance: Weight | None = None


class Settings(BaseModel):
    """What creating and upscaling have in common."""

    model_config = ConfigDict(extra="forbid")
    prompt: Text
    model: Annotated[str, Field(max_length=200)] | None = None
    seed: Seed = Field(default_factory=lambda: secrets.randbelow(2**31))
    steps: Steps | None = None


class VideoRequest(Settings):
    """A video to make. `prompt`, `model`, `size` and `seconds` are OpenAI's, the rest our own."""

    size: Annotated[str, Field(max_length=20)] | None = None
    seconds: Annotated[str, Field(max_length=20)] | None = None
    negative_prompt: Text = ""
    guidance: Weight | None = None
    stages: dict[str, StageSettings] = {}

    def setting(self, stage: StageSpec) -> StageSettings:
        """Of one stage: its own, or else what is asked of all."""
        own = self.stages.get(stage.name, StageSettings())
        weight = self.guidance if own.guidance is None else own.guidance
        guidance = weight if stage.sampler.guidance.on else None
        return StageSettings(steps=own.steps or self.steps, guidance=guidance)

    @field_validator("seconds", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        """OpenAI writes "4"; a number is welcome too."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return value
        try:
            return f"{value:.4g}"
        except OverflowError as error:
            raise ValueError("more seconds than a number holds") from error

    @field_validator("stages", mode="before")
    @classmethod
    def _parsed(cls, value: Any) -> Any:
        """A form carries it as JSON text."""
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"not JSON: {error}") from error


class UpscaleRequest(Settings):
    """A video to upscale by stages of the cascade, the last one by default."""

    prompt: Text = ""
    stages: Annotated[list[Annotated[str, Field(max_length=50)]], Field(max_length=8)] = []


@dataclass(frozen=True)
class Offer:
    """Sizes and lengths of a cascade: `sizes` has the last stage to run for "WIDTHxHEIGHT"."""

    spec: CascadeSpec
    sizes: dict[str, StageSpec]

    @classmethod
    def of(cls, spec: CascadeSpec) -> "Offer":
        """Of stages with the same size the last has most frames; the largest size comes last."""
        return cls(spec, {size_of(*stage.output.size): stage for stage in spec.stages})

    def stage(self, size: str | None) -> StageSpec:
        """The stage whose output is a video of this size; ValueError lists the legal ones."""
        if size is None:
            return self.spec.stages[-1]
        if size not in self.sizes:
            legal = ", ".join(self.sizes)
            raise ValueError(f"size must be one of {legal} (width x height), got {size!r}")
        return self.sizes[size]

    def lengths(self, stage: StageSpec) -> list[str]:
        """Legal `seconds`: whole ones, and the full length that the cascade was trained on."""
        full = stage.output.seconds
        whole = [str(seconds) for seconds in range(1, math.ceil(full))]
        return [*whole, f"{full:.4g}"]

    def facts(self) -> dict[str, Any]:
        """What jobs of before must be shown by."""
        sizes = {size: self.lengths(stage) for size, stage in self.sizes.items()}
        names = [stage.name for stage in self.spec.stages]
        return {"model": self.spec.name, "stages": names, "sizes": sizes}

    def frames(self, stage: StageSpec, seconds: str | None) -> int:
        """Frames of that many seconds; ValueError lists the legal ones."""
        legal = self.lengths(stage)
        if seconds is None or seconds == legal[-1]:
            return stage.output.frames
        if seconds not in legal:
            raise ValueError(f"seconds must be one of {', '.join(legal)}, got {seconds!r}")
        return round(int(seconds) * stage.output.fps)

    def wanted(self, asked: VideoRequest) -> SampleSpec:
        """The call of a `tuned` cascade for it; ValueError for what cannot be made."""
        self.check_model(asked.model)
        if not asked.prompt.strip():
            raise ValueError("prompt must say what the video shows, got no text")
        stage = self.stage(asked.size)
        return SampleSpec(
            seed=asked.seed,
            negative_prompt=asked.negative_prompt,
            num_frames=self.frames(stage, asked.seconds),
            until=stage.name,
        )

    def stages(self, asked: VideoRequest | UpscaleRequest) -> list[StageSpec]:
        """The stages that a request runs, in order."""
        if isinstance(asked, UpscaleRequest):
            return self.upsampling(asked)
        last = self.spec.index(self.stage(asked.size).name)
        return list(self.spec.stages[: last + 1])

    def check_model(self, model: str | None) -> None:
        if model not in (None, self.spec.name):
            raise ValueError(f"model must be {self.spec.name!r}, got {model!r}")

    def upsampling(self, asked: UpscaleRequest) -> list[StageSpec]:
        """The stages that an upscaling runs."""
        self.check_model(asked.model)
        known = {stage.name: stage for stage in self.spec.stages if stage.kind != "base"}
        names = asked.stages or [self.spec.stages[-1].name]
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ValueError(f"stages must be among {', '.join(known)}, got {unknown[0]!r}")
        if len(set(names)) < len(names):
            raise ValueError(f"stages must name each stage once, got {', '.join(names)}")
        return [known[name] for name in names]


def size_of(height: int, width: int) -> str:
    """ "WIDTHxHEIGHT", as the API writes it."""
    return f"{width}x{height}"


def tuned(cascade: Cascade, asked: VideoRequest) -> Cascade:
    """The same weights, sampled as asked: a stage's own settings go before those for all.

    ValueError for a stage that is not there, or is not guided but was given a weight.
    """
    for name, own in asked.stages.items():
        guided = cascade.spec.stage(name).sampler.guidance.on
        if own.guidance is not None and not guided:
            raise ValueError(f"stage {name!r} is not guided: leave its guidance out")
    for stage in cascade.spec.stages:
        own = asked.setting(stage)
        if own != StageSettings():
            call = SampleSpec(steps=own.steps, guidance=own.guidance)
            cascade = cascade.with_sampler(stage.name, override(stage.sampler, call))
    return cascade
