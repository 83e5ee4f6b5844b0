"""One model of the cascade: its spec, its U-Net and its schedule."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from imagen_video.diffusion.denoised import Denoised, Denoiser
from imagen_video.diffusion.guidance import (
    Rule,
    dynamic_threshold,
    guidance_weights,
    guided_denoisers,
    static_threshold,
    thresholded,
)
from imagen_video.diffusion.objective import Draws, Loss, Objective
from imagen_video.diffusion.sampler import (
    Move,
    Noise,
    SamplerState,
    Window,
    ancestral,
    ddim,
    denoise_steps,
    denoise_windows,
    dpmpp_2m,
    stochastic,
)
from imagen_video.diffusion.schedule import CosineSchedule
from imagen_video.lowres import Low, level_at, low_from_truth, prepare
from imagen_video.shapes import Bool
from imagen_video.spec import SamplerSpec, StageSpec
from imagen_video.text.encoder import TextEmbedding
from imagen_video.unet.inputs import Conditioning
from imagen_video.unet.unet import VideoUNet
from imagen_video.video import ALL, PerClip, Video


class Stage:
    """A stage that can be trained (`loss`) and sampled (`sample_steps`).

    Device and dtype of the network are those of its weights; everything around it is float32.
    """

    def __init__(self, spec: StageSpec, unet: VideoUNet | None = None):
        self.spec = spec
        self.unet = unet if unet is not None else build_unet(spec)
        self.schedule = CosineSchedule(shift=spec.logsnr_shift)
        self.image_schedule = self.schedule
        if spec.image_logsnr_shift is not None:
            self.image_schedule = CosineSchedule(shift=spec.image_logsnr_shift)

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device

    def objective(self) -> Objective:
        """Training on data with the spec's weighting."""
        bound = float("inf") if self.spec.max_weight is None else self.spec.max_weight
        return Objective(weighting=self.spec.weighting, max_weight=bound)

    def loss(
        self,
        video: Video,
        cond: Conditioning,
        draws: Draws,
        *,
        objective: Objective | None = None,
    ) -> Loss:
        """The loss on true videos; `cond` has text and kind, its low-resolution part is made here.

        Captions are dropped with probability `train.text_dropout` (paper section 3.2).
        """
        cond = self.prepared(video, cond, draws)
        objective = objective or self.objective()
        return objective(self.denoiser(cond), video, self.by_kind(cond), draws)

    def prepared(self, video: Video, cond: Conditioning, draws: Draws) -> Conditioning:
        """What the network is told in training: captions dropped, the low-resolution part made."""
        keep = draws.uniform("dropout") >= self.spec.train.text_dropout
        cond = cond.drop_text(keep.to(video.device))
        if self.spec.kind != "base":
            low = self.shown_before(video, cond, draws)
            logsnr = level_at(draws.uniform("level"), self.spec).to(video)
            cond = self.told(cond, low, draws.normal("low", low), logsnr)
        return cond

    def told(self, cond: Conditioning, low: Low, noise: Low, logsnr: PerClip) -> Conditioning:
        """`cond` with the previous stage's video, noised to this level."""
        low = prepare(low, noise, logsnr, spec=self.spec, is_video=cond.is_video)
        return replace(cond, lowres=low, lowres_logsnr=logsnr)

    def shown_before(self, video: Video, cond: Conditioning, draws: Draws) -> Low:
        """The low-resolution video of training, before noise is added to it."""
        return low_from_truth(video, self.spec)

    def by_kind(self, cond: Conditioning, *, sampled: bool = False) -> "ByKind":
        """The schedule of a batch in training, or that in whose time sampled steps are even."""
        schedules = (self.schedule, self.image_schedule)
        if sampled:
            schedules = (sampling_schedule(self.spec), sampling_schedule(self.spec, video=False))
        return ByKind(cond.is_video, *schedules)

    def denoiser(
        self, cond: Conditioning, *, window: int | None = None, inner: slice = ALL
    ) -> Denoiser:
        """The network under one conditioning, in windows of frames if asked for.

        A window sees `temporal_reach` more frames on each side, so windows equal one call. Of what
        it is shown it answers for the `inner` frames.
        """

        def denoise(z: Video, logsnr: PerClip) -> Denoised:
            if window is None or window >= z.shape[1]:
                return self._read(z[:, inner], self.unet(z, logsnr, cond, inner), logsnr)
            v = torch.empty_like(z)
            for seen, kept in self.windows(z.shape[1], window):
                part = self.denoiser(cond.window(seen), inner=within(seen, kept))
                v[:, kept] = part(z[:, seen], logsnr).v
            return Denoised(z, v, logsnr)

        return denoise

    def windows(self, frames: int, window: int) -> list[tuple[slice, slice]]:
        """The frames that each window of a clip sees, and those that it answers for."""
        reach, found = self.spec.unet.temporal_reach, []
        for start in range(0, frames, window):
            stop = min(start + window, frames)
            seen = slice(max(0, start - reach), min(frames, stop + reach))
            found.append((seen, slice(start, stop)))
        return found

    def _read(self, z: Video, raw: Video, logsnr: PerClip) -> Denoised:
        if self.spec.unet.predicts == "x":
            return Denoised.from_x(z, raw.to(z.dtype), logsnr)
        if self.spec.unet.predicts == "eps":
            return Denoised.from_eps(z, raw.to(z.dtype), logsnr)
        return Denoised(z, raw.to(z.dtype), logsnr)

    def conditioning(
        self,
        text: TextEmbedding,
        *,
        frames: int,
        low: Video | None,
        noise: Noise,
        sample: int = 0,
    ) -> Conditioning:
        """Conditioning of a sampling run: the captions, and `low` noised once at `aug_logsnr`."""
        # One frame is an image: it has no order and passes temporal layers as packed images do.
        is_video = torch.full((len(text.tokens),), frames > 1, device=self.device)
        tokens, mask = text.tokens[:, None].to(self.device), text.mask[:, None].to(self.device)
        cond = Conditioning(tokens, mask, is_video)
        if low is None:
            return cond
        assert self.spec.sampler.aug_logsnr is not None, "StageSpec checks it"
        level = torch.full((len(low),), self.spec.sampler.aug_logsnr, device=self.device)
        b, f, c, h, w = low.shape
        drawn = noise((b, f, c, h, w), stage=f"{self.spec.name}/low", step=0, sample=sample)
        low, drawn = low.to(self.device), drawn.to(self.device)
        cond = self.told(cond, low, drawn, level)
        assert cond.lowres is not None
        return replace(cond, lowres=cond.lowres[:, :frames])

    def sample_steps(
        self,
        cond: Conditioning,
        shape: tuple[int, int, int, int, int],
        noise: Noise,
        *,
        sampler: SamplerSpec | None = None,
        negative: Conditioning | None = None,
        sample: int = 0,
    ) -> Iterator[SamplerState]:
        """Sample videos of this (b, f, c, h, w), one state a step; guided as the sampler says.

        A run in windows that moves by DDIM, with nothing that looks at a whole clip, is one of
        states a window, in half of the memory, and of one step in that of a window alone.
        `negative` replaces the empty caption that guidance moves away from, in two calls a step;
        ValueError where the network cannot be called without guidance.
        """
        sampler = sampler or self.spec.sampler
        schedule = sampling_schedule(self.spec, sampler, video=bool(cond.is_video.all()))

        def draw(step: int) -> Video:
            drawn = noise(shape, stage=self.spec.name, step=step, sample=sample)
            return drawn.to(self.device)

        if by_window(sampler, frames=shape[1]):
            windows = self._run_in_windows(cond, shape[1], sampler, negative)
            start = noise.in_turn(shape, stage=self.spec.name, step=0, sample=sample)
            yield from denoise_windows(windows, schedule, lambda n: start(n).to(self.device))
        else:
            denoisers = self.denoisers(cond, sampler=sampler, negative=negative)
            yield from denoise_steps(denoisers, schedule, draw, move=make_move(sampler))

    def _run_in_windows(
        self, cond: Conditioning, frames: int, sampler: SamplerSpec, negative: Conditioning | None
    ) -> list[Window]:
        assert sampler.window is not None
        found, whole = [], replace(sampler, window=None)
        for seen, kept in self.windows(frames, sampler.window):
            away = None if negative is None else negative.window(seen)
            denoisers = self.denoisers(
                cond.window(seen), sampler=whole, negative=away, inner=within(seen, kept)
            )
            found.append(Window(seen, kept, denoisers))
        return found

    def denoisers(
        self,
        cond: Conditioning,
        *,
        sampler: SamplerSpec | None = None,
        negative: Conditioning | None = None,
        inner: slice = ALL,
    ) -> list[Denoiser]:
        """One a step of the sampler, guided by its weight; see `denoiser` for `inner`."""
        sampler = sampler or self.spec.sampler
        window, rule = sampler.window, make_rule(sampler)
        schedule = sampling_schedule(self.spec, sampler, video=bool(cond.is_video.all()))
        weights = guidance_weights(sampler.guidance, sampler.num_steps, schedule)
        if negative is not None:
            self.spec.refuse_negative()
        elif self.spec.unet.guided:
            self.spec.refuse_unlearned(weights)

            def told(weight: float) -> Denoiser:
                alone = self.spec.unet.side is not None and not weight
                each = None if alone else torch.full((len(cond.text),), weight, device=self.device)
                denoise = self.denoiser(replace(cond, guidance=each), window=window, inner=inner)
                return thresholded(denoise, rule) if weight else denoise

            by_weight = {weight: told(weight) for weight in set(weights)}
            return [by_weight[weight] for weight in weights]
        plain = doubled = self.denoiser(cond, window=window, inner=inner)
        if any(weights):
            both = cond.cat(negative or cond.without_text())
            doubled = self.denoiser(both, window=window, inner=inner)
        return guided_denoisers(plain, doubled, weights, rule=rule)


@dataclass(frozen=True)
class ByKind:
    """A schedule that treats videos and packed images differently."""

    is_video: Bool[Tensor, " b"]
    video: CosineSchedule
    image: CosineSchedule

    def __call__(self, t: PerClip) -> PerClip:
        return torch.where(self.is_video, self.video(t), self.image(t))

    def slope(self, t: PerClip) -> PerClip:
        return torch.where(self.is_video, self.video.slope(t), self.image.slope(t))

    def inverse(self, logsnr: PerClip) -> PerClip:
        return torch.where(self.is_video, self.video.inverse(logsnr), self.image.inverse(logsnr))


def sampling_schedule(
    spec: StageSpec, sampler: SamplerSpec | None = None, *, video: bool = True
) -> CosineSchedule:
    """The schedule in whose time a sampler's steps are even, of videos or of single images."""
    chosen, of_images = (sampler or spec.sampler).logsnr_shift, spec.image_logsnr_shift
    shifts = (chosen, None if video else of_images, spec.logsnr_shift)
    return CosineSchedule(shift=next(shift for shift in shifts if shift is not None))


def within(seen: slice, kept: slice) -> slice:
    """Where the frames `kept` are among those `seen`."""
    return slice(kept.start - seen.start, kept.stop - seen.start)


def by_window(sampler: SamplerSpec, *, frames: int) -> bool:
    """Whether each window of a step can be moved before the next is looked at."""
    by_clip = sampler.threshold == "dynamic" and sampler.guidance.on
    several = sampler.window is not None and sampler.window < frames
    return several and sampler.move == "ddim" and not by_clip


def make_rule(sampler: SamplerSpec) -> Rule:
    """How a sampler clips what it is told where it is guided."""
    if sampler.threshold == "dynamic":
        return dynamic_threshold(sampler.percentile)
    return static_threshold


def make_move(sampler: SamplerSpec) -> Move:
    """The sampler's move by name."""
    moves = {"ddim": ddim, "stochastic": stochastic, "dpmpp_2m": dpmpp_2m}
    return ancestral(sampler.gamma) if sampler.move == "ancestral" else moves[sampler.move]


def build_unet(spec: StageSpec, *, device: str | torch.device = "cpu") -> VideoUNet:
    """The stage's network, freshly initialised (on "meta": shapes alone)."""
    with torch.device(device):
        return VideoUNet(spec.unet, low_channels=spec.low_channels, space_factor=spec.space_factor)
