"""The training loss: noise levels, targets, weights (paper sections 4.3, 8)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from imagen_video.diffusion.denoised import Denoised, Denoiser
from imagen_video.diffusion.sampler import keyed_generator
from imagen_video.diffusion.schedule import alpha_sigma, expand
from imagen_video.shapes import Float
from imagen_video.video import PerClip, Video

Weighting = Literal["v", "eps", "x", "snr_trunc", "min_snr", "sigmoid"]
Times = Callable[[int, torch.Generator], PerClip]  # (b, generator) -> times in [0, 1]
Target = Callable[[Denoised], Denoised]  # the truth about z -> what the network is told about z


@runtime_checkable
class Schedule(Protocol):
    """What training needs of a schedule: the log-SNR of each clip's time, its slope and inverse."""

    def __call__(self, t: PerClip) -> PerClip: ...

    def slope(self, t: PerClip) -> PerClip: ...

    def inverse(self, logsnr: PerClip) -> PerClip: ...


MIN_SNR_GAMMA = 5.0  # the value of the Min-SNR paper


@dataclass(frozen=True)
class Draws:
    """The random numbers of one training step: those of a row are the same in whichever process
    it is, so that many processes train as one does.

    `rows` are the rows of a batch of `total` that this process has (None: all).
    """

    total: int
    rows: tuple[int, ...] | None = None
    seed: int = 0
    step: int = 0
    device: str | torch.device = "cpu"

    def generator(self, *what: str | int) -> torch.Generator:
        """A generator of this step for one purpose."""
        return keyed_generator(self.seed, self.step, *what, device=self.device)

    def own(self, whole: PerClip) -> Float[Tensor, " rows"]:
        """This process's rows of what was drawn for the whole batch."""
        return whole if self.rows is None else whole[list(self.rows)]

    def uniform(self, what: str) -> PerClip:
        """One number in [0, 1) a row."""
        return self.own(uniform_times(self.total, self.generator(what)))

    def normal(self, what: str, like: Video) -> Video:
        """Normal noise of the shape, type and device of a batch of this process's rows."""
        rows = range(self.total) if self.rows is None else self.rows
        noise = torch.empty(like.shape, device=self.device)
        for clip, row in zip(noise, rows, strict=True):
            clip.normal_(generator=self.generator(what, row))
        return noise.to(like)


@dataclass(frozen=True)
class Loss:
    """The mean over clips, and for the log the weighted error and log-SNR of each."""

    value: Float[Tensor, ""]
    per_clip: PerClip
    logsnr: PerClip


def uniform_times(b: int, generator: torch.Generator) -> PerClip:
    """Independent uniform times."""
    return torch.rand(b, generator=generator, device=generator.device)


def low_discrepancy_times(b: int, generator: torch.Generator) -> PerClip:
    """Uniform times, evenly spread over the batch in random order: less variance."""
    device = generator.device
    start = torch.rand(1, generator=generator, device=device)
    spread = (start + torch.arange(b, device=device) / b) % 1
    return spread[torch.randperm(b, generator=generator, device=device)]


def fixed_time(t: float) -> Times:
    """The same for all, as validation asks for."""
    return lambda b, generator: torch.full((b,), t, device=generator.device)


def discrete_times(num_steps: int, times: Times = low_discrepancy_times) -> Times:
    """`times` moved up to the next i / num_steps, i = 1 .. num_steps, at which such a sampler calls
    its network."""

    def stepped(b: int, generator: torch.Generator) -> PerClip:
        return (times(b, generator) * num_steps).ceil().clamp(min=1) / num_steps

    return stepped


def one_of(asked: Sequence[float], times: Times = low_discrepancy_times) -> Times:
    """Those that are asked for, as often as `times` fall into equal parts of [0, 1)."""

    def drawn(b: int, generator: torch.Generator) -> PerClip:
        known = torch.tensor(asked, device=generator.device)
        return known[(times(b, generator) * len(asked)).long().clamp(max=len(asked) - 1)]

    return drawn


def truth(true: Denoised) -> Denoised:
    """The target of training on data."""
    return true


def step_of(schedule: Schedule, logsnr: PerClip, num_steps: int) -> PerClip:
    """Which of the times i / num_steps is nearest, i = 1 .. num_steps."""
    return (schedule.inverse(logsnr) * num_steps).round().clamp(1, num_steps)


def two_teacher_steps(
    teacher: Denoiser, schedule: Schedule, num_steps: int, *, overlapping: bool = False
) -> Target:
    """One student step is to land where two teacher steps do: paper section 8.2.

    `num_steps` are the student's, and the teacher's twice that; log-SNRs are rounded to the times
    of `discrete_times(num_steps)`. In the last step both return their x, so its end is the limit of
    no noise instead of t = 0. `overlapping`: for the stochastic sampler (section 8.3), which goes
    two of its steps ahead and one back: the teacher's are as many as the student's, and in the last
    student step the teacher takes one.
    """
    half = 1.0 if overlapping else 0.5

    @torch.no_grad()
    def target(true: Denoised) -> Denoised:
        z, logsnr = true.z, true.logsnr
        i = step_of(schedule, logsnr, num_steps)
        middle = schedule((i - half).clamp(min=half) / num_steps)
        first = teacher(z, logsnr)
        end = torch.where(i <= 2 * half, torch.inf, schedule((i - 2 * half) / num_steps))
        z_e = teacher(first.at(middle), middle).at(end)
        alone = expand((i < 2 * half).to(z), z).bool()
        z_e = torch.where(alone, first.at(end), z_e)
        return Denoised.from_move(z, z_e, logsnr, end)

    return target


@dataclass(frozen=True)
class Objective:
    """The weighted error of a denoiser at random noise levels.

    Weightings name the prediction whose mean squared error they are: `v`, `eps`, `x`; `snr_trunc`
    is the larger of those of x and eps in each clip, `min_snr` that of x times min(SNR, 5), and
    `sigmoid` the one of Kingma and Gao, sigmoid(sigmoid_bias - logsnr) on the ELBO. `max_weight`
    bounds the weight of the error of x: `v` is 1 + SNR times that, which a network that predicts x
    can only follow where there is noise (8 is a good bound there).
    """

    weighting: Weighting = "v"
    max_weight: float = math.inf
    times: Times = low_discrepancy_times
    target: Target = truth
    sigmoid_bias: float = 2.0

    def __call__(self, denoise: Denoiser, x: Video, schedule: Schedule, draws: Draws) -> Loss:
        """The loss on clean videos x, the rows of `draws`."""
        t = draws.own(self.times(draws.total, draws.generator("times"))).to(x)
        eps = draws.normal("eps", x)
        logsnr = schedule(t)
        alpha, sigma = (expand(part, x) for part in alpha_sigma(logsnr))
        true = Denoised(alpha * x + sigma * eps, alpha * eps - sigma * x, logsnr)

        error = denoise(true.z, logsnr).v - self.target(true).v
        weight = self.v_weight(logsnr, schedule.slope(t))
        per_clip = weight * error.square().mean(dim=(1, 2, 3, 4))
        return Loss(per_clip.mean(), per_clip, logsnr)

    def v_weight(self, logsnr: PerClip, slope: PerClip) -> PerClip:
        """The weight of the mean squared error of v: sigma^2 times that of x.

        In terms of v nothing is divided by a tiny sigma or alpha, and every weighting stays finite
        at both ends. `slope` is d logsnr / dt.
        """
        alpha, sigma = alpha_sigma(logsnr)
        match self.weighting:
            case "v":
                weight = torch.ones_like(logsnr)
            case "eps":
                weight = alpha**2
            case "x":
                weight = sigma**2
            case "snr_trunc":
                weight = torch.maximum(alpha, sigma) ** 2
            case "min_snr":
                weight = torch.minimum(alpha**2, MIN_SNR_GAMMA * sigma**2)
            case "sigmoid":
                weight = -slope / 2 * alpha**2 * torch.sigmoid(self.sigmoid_bias - logsnr)
            case other:
                raise ValueError(f"weighting {other!r} is none of {Weighting.__args__}")
        return weight.clamp(max=self.max_weight * sigma**2)
