"""The cascade as data: frozen specs, checked when built; `spec_json` saves them."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from imagen_video.spec_unet import UNetSpec, require, require_known_words
from imagen_video.video import VideoFormat

ROUNDING = 1e-5
"""Of guidance weights, which are float32 where they are used."""


@dataclass(frozen=True, kw_only=True)
class GuidanceSpec:
    """Classifier-free guidance weights over the steps (paper section 5); **weight 0 = off**.

    With `low`, the first `constant_steps` take `weight`, then `low` and `weight` alternate.
    With `interval`, steps whose log-SNR lies outside (least, most) are unguided.
    """

    weight: float = 0.0
    low: float | None = None
    constant_steps: int = 0
    interval: tuple[float, float] | None = None

    def __post_init__(self):
        for weight in (self.weight, self.low or 0.0):
            require(0 <= weight <= 1e4, f"guidance weights lie in 0 (off) to 10000, got {weight}")
        require(self.constant_steps >= 0, "constant_steps must be at least 0")
        require(
            self.interval is None or self.interval[0] < self.interval[1],
            f"the guidance interval must go from less to more log-SNR, got {self.interval}",
        )

    @property
    def on(self) -> bool:
        return self.weight > 0 or bool(self.low)


@dataclass(frozen=True, kw_only=True)
class SamplerSpec:
    """How a stage is sampled (paper section 5). `aug_logsnr` is the fixed lambda' of section 6.

    Steps are even in the time of a cosine schedule of this `logsnr_shift` (None: of the stage's):
    what a stage trains on, mostly high noise, leaves few of few steps to low noise.
    """

    num_steps: int
    move: Literal["ddim", "ancestral", "stochastic", "dpmpp_2m"] = "ddim"
    gamma: float = 0.0
    guidance: GuidanceSpec = field(default_factory=GuidanceSpec)
    threshold: Literal["static", "dynamic"] = "static"
    percentile: float = 0.995
    aug_logsnr: float | None = None
    window: int | None = None
    logsnr_shift: float | None = None

    def __post_init__(self):
        require_known_words(self)
        require(self.num_steps >= 1, f"num_steps must be at least 1, got {self.num_steps}")
        require(0 <= self.gamma <= 1, f"gamma must lie in [0, 1], got {self.gamma}")
        require(0 < self.percentile <= 1, f"percentile must lie in (0, 1], got {self.percentile}")
        require(self.window is None or self.window >= 1, "window must be at least one frame")
        for value in (self.aug_logsnr, self.logsnr_shift):
            require(abs(value or 0.0) < float("inf"), f"log-SNRs must be finite, got {value}")


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """How a stage is trained by default: every count is in sequences or optimizer steps.

    A batch holds `clips` videos and `image_packs` sequences of independent images. `frames` and
    `crop` (height, width) shorten and crop what the stage sees; None is the whole clip. With a
    `stride` a base sees every n-th frame of a clip: motion is learned from n times as many clips.
    Every batch is shown in `echoes` steps, with other noise (data echoing, Choi et al. 2019): for
    devices that learn faster than data is made.
    """

    steps: int
    clips: int
    image_packs: int = 0
    frames: int | None = None
    stride: int = 1
    echoes: int = 1
    crop: tuple[int, int] | None = None
    learning_rate: float = 1e-4
    warmup: int = 1000
    cooldown: int = 1000
    ema: float = 0.9999
    text_dropout: float = 0.1
    grad_clip: float = 1.0
    weight_decay: float = 0.0
    optimizer: Literal["adamw", "adafactor", "adamw8bit"] = "adamw"

    def __post_init__(self):
        require_known_words(self)
        above = ("steps", "stride", "echoes", "learning_rate", "grad_clip")
        for name, value in ((name, getattr(self, name)) for name in above):
            require(0 < value < float("inf"), f"{name} must be above 0, got {value}")
        for name in ("clips", "image_packs", "warmup", "cooldown", "weight_decay"):
            require(getattr(self, name) >= 0, f"{name} must be >= 0, got {getattr(self, name)}")
        require(self.clips + self.image_packs > 0, "a batch needs clips or image_packs")
        require(0 <= self.text_dropout < 1, "text_dropout must lie in [0, 1)")
        require(0 <= self.ema < 1, f"ema must lie in [0, 1), got {self.ema}")


@dataclass(frozen=True, kw_only=True)
class StageSpec:
    """One model of the cascade: what comes in, what goes out, and how it is trained and sampled.

    `logsnr_shift` moves the cosine schedule towards noise (negative), and `image_logsnr_shift` that
    of packed images, which no other frame repeats (None: the same). `max_weight` bounds the loss
    weight on ||x - x_hat||^2; `aug_max` (a time in (0, 1]) the noise on low-resolution videos.
    """

    name: str
    input: VideoFormat | None = None
    output: VideoFormat
    unet: UNetSpec
    sampler: SamplerSpec
    train: TrainSpec
    logsnr_shift: float = 0.0
    image_logsnr_shift: float | None = None
    weighting: Literal["v", "eps", "x", "snr_trunc", "min_snr", "sigmoid"] = "v"
    max_weight: float | None = None
    aug_max: float = 1.0

    def __post_init__(self):
        require_known_words(self)
        self._check_sizes(*self.output.size, what=str(self.output))
        self._check_training()
        if self.input:
            self._check_upsampling(self.input)
            require(
                self.sampler.aug_logsnr is not None,
                f"stage {self.name!r} upsamples: its sampler needs aug_logsnr (such as 3 or 5)",
            )
        if self.sampler.window is not None:
            require(
                self.unet.temporal == "conv",
                f"stage {self.name!r}: a window needs temporal convolutions, not attention",
            )

    def refuse_negative(self) -> None:
        """ValueError where the network cannot be called without guidance."""
        if not self.unet.takes_negative:
            raise ValueError(
                f"stage {self.name!r} has learned guidance away from the empty caption and "
                "takes no negative prompt: leave it out, or use what the stage was distilled from"
            )

    def refuse_unlearned(self, weights: Iterable[float]) -> None:
        """ValueError for weights that a network that has learned guidance has not been told."""
        if self.unet.guided is None:
            return
        least, most = self.unet.guided
        for weight in (w for w in weights if w or self.unet.side is None):
            if not least - ROUNDING <= weight <= most + ROUNDING:
                raise ValueError(
                    f"stage {self.name!r} has learned guidance weights {least:g} to {most:g}, "
                    f"got {weight:g}"
                )

    def _check_sizes(self, height: int, width: int, *, what: str) -> None:
        multiple = self.unet.multiple
        require(
            height > 0 and width > 0 and height % multiple == 0 and width % multiple == 0,
            f"stage {self.name!r}: {what} must have height and width in multiples of "
            f"{multiple} (patch {self.unet.patch}, {len(self.unet.widths)} levels)",
        )

    def _check_training(self) -> None:
        frames, crop = self.train.frames, self.train.crop
        if frames is not None:
            require(
                0 < frames <= self.output.frames and frames % self.time_factor == 0,
                f"stage {self.name!r}: it cannot train on {frames} of {self.output.frames} frames: "
                f"give a multiple of {self.time_factor} up to {self.output.frames}",
            )
        whole = frames or self.output.frames
        require(
            self.train.stride == 1 or (self.kind == "base" and self.train.stride < whole),
            f"stage {self.name!r}: train.stride {self.train.stride} must be 1, or in a base less "
            f"than its {whole} frames",
        )
        if crop is not None:
            self._check_sizes(*crop, what=f"the crop {crop[0]}x{crop[1]}")
            require(
                crop[0] <= self.output.height and crop[1] <= self.output.width,
                f"stage {self.name!r}: a crop of {crop[0]}x{crop[1]} does not fit into "
                f"{self.output}",
            )
        require(0 < self.aug_max <= 1, f"aug_max must lie in (0, 1], got {self.aug_max}")
        require(
            self.max_weight is None or self.max_weight > 0,
            f"max_weight must be above 0, got {self.max_weight}",
        )

    def _check_upsampling(self, low: VideoFormat) -> None:
        high = self.output
        time, rows, cols = (
            (high.frames, low.frames),
            (high.height, low.height),
            (high.width, low.width),
        )
        require(
            all(big % small == 0 for big, small in (time, rows, cols)),
            f"stage {self.name!r}: {high} is not a whole multiple of its input {low}",
        )
        require(
            high.height // low.height == high.width // low.width,
            f"stage {self.name!r} would change the aspect: {low} -> {high}",
        )
        require(
            (high.frames > low.frames) != (high.height > low.height),
            f"stage {self.name!r} must upsample either time or space: {low} -> {high}",
        )
        require(
            abs(low.fps * self.time_factor - high.fps) < 1e-6 * high.fps,
            f"stage {self.name!r} would change how long a clip lasts: {low} -> {high}",
        )

    @property
    def kind(self) -> Literal["base", "ssr", "tsr"]:
        if self.input is None:
            return "base"
        return "ssr" if self.input.frames == self.output.frames else "tsr"

    @property
    def time_factor(self) -> int:
        return self.output.frames // self.input.frames if self.input else 1

    @property
    def space_factor(self) -> int:
        return self.output.height // self.input.height if self.input else 1

    @property
    def low_channels(self) -> int:
        """Channels of the conditioning video: RGB; over time also how far the known frames around
        differ, and which frames are known."""
        return {"base": 0, "ssr": 3, "tsr": 7}[self.kind]


@dataclass(frozen=True, kw_only=True)
class TextSpec:
    """The frozen text encoder: "minilm" (in the package) or "t5" by hub name or local folder."""

    encoder: Literal["minilm", "t5"] = "minilm"
    name: str = ""
    dim: int = 384
    length: int = 128

    def __post_init__(self):
        require_known_words(self)
        require(self.length >= 1, f"token length must be at least 1, got {self.length}")
        require(
            (self.encoder == "t5") == bool(self.name),
            "a t5 encoder needs a name or folder, and minilm takes none",
        )


@dataclass(frozen=True, kw_only=True)
class CascadeSpec:
    """Stages in the order they run, and the text encoder all of them read."""

    name: str
    stages: tuple[StageSpec, ...]
    text: TextSpec

    def __post_init__(self):
        require(len(self.stages) > 0, "a cascade needs at least one stage")
        names = [stage.name for stage in self.stages]
        require(len(set(names)) == len(names), f"stage names must differ, got {names}")
        legal = all(re.fullmatch(r"\w[\w.-]*", name) for name in names)
        require(legal, f"stage names are names of folders, got {names}")
        require(self.stages[0].kind == "base", "the first stage must be a base (input=None)")
        for before, stage in zip(self.stages, self.stages[1:], strict=False):
            require(
                stage.input == before.output,
                f"stage {stage.name!r} wants {stage.input}, but {before.name!r} gives "
                f"{before.output}",
            )
        for stage in self.stages:
            require(
                stage.unet.text_dim == self.text.dim,
                f"stage {stage.name!r} reads text of width {stage.unet.text_dim}, the encoder "
                f"gives {self.text.dim}",
            )

    def stage(self, name: str) -> StageSpec:
        return self.stages[self.index(name)]

    def index(self, name: str) -> int:
        """Where a stage stands. Raises ValueError for a name that is not there."""
        names = [stage.name for stage in self.stages]
        if name not in names:
            raise ValueError(f"no stage {name!r} in {self.name!r}; there are: {', '.join(names)}")
        return names.index(name)
