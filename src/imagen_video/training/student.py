"""Students: stages that are told by a teacher what they would be told by data (paper section 8)."""

import math
from dataclasses import dataclass, replace

import torch

from imagen_video.diffusion.denoised import Denoised, Denoiser
from imagen_video.diffusion.guidance import guidance_weights, guided, thresholded, weight_at
from imagen_video.diffusion.objective import (
    Draws,
    Loss,
    Objective,
    Schedule,
    Target,
    discrete_times,
    one_of,
    step_of,
    two_teacher_steps,
)
from imagen_video.diffusion.schedule import alpha_sigma, expand
from imagen_video.lowres import Low, low_from_truth
from imagen_video.sampling import SampleSpec, override
from imagen_video.spec import GuidanceSpec, StageSpec, TrainSpec
from imagen_video.stage import Stage, make_rule, sampling_schedule
from imagen_video.training.engine import side_alone
from imagen_video.unet.inputs import Conditioning
from imagen_video.unet.unet import VideoUNet
from imagen_video.video import PerClip, Video


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What a student learns of its teacher.

    Without `steps` it learns guidance (section 8.1): to answer in one call, told a weight, as the
    teacher does in two. With a `side`, a network of so many channels beside the teacher, which
    stays as it is, learns the direction of guidance, at the levels of the sampler's guided steps.
    With `steps`, to reach in so many steps what the teacher reaches in twice as many (section
    8.2), and guidance with it where that takes two calls; `overlapping`, in as many, each of two
    of the teacher's: for the stochastic sampler (section 8.3). Weights are drawn from `weights`.
    """

    steps: int | None = None
    weights: tuple[float, float] = (0.0, 15.0)
    overlapping: bool = False
    side: int | None = None

    def __post_init__(self):
        low, high = self.weights
        if not 0 <= low <= high < math.inf:
            raise ValueError(f"guidance weights are drawn from 0 <= low <= high, got {low}, {high}")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"a student takes at least 1 step, got {self.steps}")
        if self.side is not None and self.steps is not None:
            raise ValueError("a network beside the teacher learns guidance alone: give no steps")

    @property
    def its_steps(self) -> int | None:
        """In how many steps the teacher of this lesson is sampled; None: in its own."""
        if self.steps is None:
            return None
        return self.steps if self.overlapping else 2 * self.steps

    def spec(self, teacher: StageSpec, train: TrainSpec) -> StageSpec:
        """The student's stage; ValueError where this teacher cannot give the lesson."""
        sampler, unet = teacher.sampler, teacher.unet
        if self.steps is None:
            if unet.guided or not sampler.guidance.on:
                why = "has learned guidance already" if unet.guided else "is sampled without it"
                raise ValueError(f"stage {teacher.name!r} teaches no guidance: it {why}")
            if self.side is not None and not guided_times(teacher):
                raise ValueError(
                    f"stage {teacher.name!r} teaches no guidance: none of its {sampler.num_steps} "
                    f"steps lies within {sampler.guidance.interval}"
                )
            unet = replace(unet, guided=self.weights, side=self.side)
            return replace(teacher, unet=unet, train=train)
        teacher.refuse_unlearned(self.weights)
        if sampler.guidance.on or unet.guided:
            unet = replace(unet, guided=self.weights)
        # What varies over the teacher's steps is learned with them.
        absorbed = GuidanceSpec(weight=sampler.guidance.weight)
        move = "stochastic" if self.overlapping else "ddim"
        sampler = replace(sampler, num_steps=self.steps, guidance=absorbed, move=move)
        return replace(teacher, unet=unet, sampler=sampler, train=train)


class Student(Stage):
    """A stage in training whose truth is what `teacher` answers when it is sampled: clipped where
    it is guided. The student is unclipped. With a side network it is its own teacher.

    With `previous`, the stage before it, its low-resolution videos are as that one makes them. Its
    truth lies in true videos, so that one begins half-way, with a true video noised to there.
    """

    def __init__(
        self,
        spec: StageSpec,
        unet: VideoUNet,
        teacher: Stage | None,
        lesson: Lesson,
        previous: Stage | None = None,
    ):
        super().__init__(spec, unet)
        if previous is not None and previous.spec.output != spec.input:
            raise ValueError(
                f"stage {spec.name!r} is shown {spec.input or 'no video'}, and the stage before it "
                f"({previous.spec.name!r}) makes {previous.spec.output}"
            )
        if previous and previous.spec.kind == "base" and previous.spec.sampler.num_steps == 1:
            raise ValueError("a base of one step keeps nothing of a true video: give no --previous")
        self.lesson, self.previous = lesson, previous
        if lesson.side is not None:
            side_alone(unet)
            teacher = self  # but for what is beside it
        assert teacher is not None, "a lesson has a teacher"
        self.teacher = teacher
        for other in (teacher, previous):
            if other is not None and other is not self:
                other.unet.requires_grad_(False).eval()

    def shown_before(self, video: Video, cond: Conditioning, draws: Draws) -> Low:
        low = super().shown_before(video, cond, draws)
        if self.previous is None:
            return low
        return finished_by(self.previous, low, cond.known(self.spec.time_factor), draws)

    def loss(
        self,
        video: Video,
        cond: Conditioning,
        draws: Draws,
        *,
        objective: Objective | None = None,
    ) -> Loss:
        """The error against the teacher on true videos, at times that the student is asked at."""
        cond, weight = self.prepared(video, cond, draws), None
        if self.lesson.side is not None:
            return self._of_direction(video, cond, draws, objective)
        told = cond
        if self.spec.unet.guided:
            low, high = self.lesson.weights
            weight = (low + (high - low) * draws.uniform("guidance")).to(video)
            told = replace(cond, guidance=weight)
        schedule, given = self.by_kind(cond, sampled=True), objective or self.objective()
        steps, denoise = self.lesson.steps, self.denoiser(told)
        if steps is None:
            assert weight is not None, "Lesson.spec makes it guided"
            interval = self.spec.sampler.guidance.interval
            given = replace(given, target=guidance_target(self.teacher, cond, weight, interval))
            denoise = told_within(self, cond, weight, interval)
        else:
            teacher, overlapping = self._stepping(cond, weight, schedule), self.lesson.overlapping
            target = two_teacher_steps(teacher, schedule, steps, overlapping=overlapping)
            given = replace(given, target=target, times=discrete_times(steps, given.times))
        return given(denoise, video, schedule, draws)

    def _of_direction(
        self, video: Video, cond: Conditioning, draws: Draws, objective: Objective | None
    ) -> Loss:
        """The error under weight -1, where guidance says what is said without a caption: that of
        the direction, which every weight multiplies. Images are asked at the times of videos."""
        plain, given = self.denoiser(cond.without_text()), objective or self.objective()

        @torch.no_grad()
        def target(true: Denoised) -> Denoised:
            return plain(true.z, true.logsnr)

        times = one_of(guided_times(self.spec), given.times)
        given = replace(given, target=target, times=times)
        told = replace(cond, guidance=video.new_full((len(video),), -1.0))
        return given(self.denoiser(told), video, self.by_kind(cond, sampled=True), draws)

    def _stepping(self, cond: Conditioning, weight: PerClip | None, schedule: Schedule) -> Denoiser:
        """The teacher in a run of the lesson's steps, guided as its sampler says at each."""
        its_steps = self.lesson.its_steps
        if weight is None or its_steps is None:
            return self.teacher.denoiser(cond)
        wanted = SampleSpec(steps=its_steps)
        guidance = override(self.teacher.spec.sampler, wanted).guidance

        def denoise(z: Video, logsnr: PerClip) -> Denoised:
            step = (its_steps - step_of(schedule, logsnr, its_steps)).long()
            now = weight_at(guidance, weight, step, logsnr)
            return as_sampled(self.teacher, cond, now)(z, logsnr)

        return denoise


def guided_times(spec: StageSpec) -> list[float]:
    """The times of a sampler's guided steps, from little noise on."""
    sampler = spec.sampler
    weights = guidance_weights(sampler.guidance, sampler.num_steps, sampling_schedule(spec))
    times = [1 - i / sampler.num_steps for i, weight in enumerate(weights) if weight]
    return times[::-1]


@torch.no_grad()
def finished_by(stage: Stage, video: Video, cond: Conditioning, draws: Draws) -> Video:
    """A true video noised to half of a stage's run (or its one step), and finished by the stage."""
    sampler, schedule = stage.spec.sampler, stage.by_kind(cond, sampled=True)
    if stage.spec.kind != "base":
        low, level = low_from_truth(video, stage.spec), sampler.aug_logsnr
        assert level is not None, "StageSpec checks it"
        noise = draws.normal("previous low", low)
        cond = stage.told(cond, low, noise, video.new_full((len(video),), level))
    steps, left = sampler.num_steps, max(1, sampler.num_steps // 2)
    levels = [schedule(video.new_full((len(video),), i / steps)) for i in range(1, left + 1)]
    denoisers = stage.denoisers(cond)[-left:]
    alpha, sigma = (expand(part, video) for part in alpha_sigma(levels[-1]))
    z = alpha * video + sigma * draws.normal("previous", video)
    ends = [*levels[-2::-1], torch.full_like(levels[0], torch.inf)]
    for denoise, logsnr, end in zip(denoisers, reversed(levels), ends, strict=True):
        z = denoise(z, logsnr).at(end)
    return z.clamp(-1, 1)


Interval = tuple[float, float] | None


def weight_within(interval: Interval, weight: PerClip, logsnr: PerClip) -> PerClip:
    """No weight at the levels at which sampling takes none: nothing is to be learned there."""
    step = torch.zeros_like(logsnr).long()
    return weight_at(GuidanceSpec(interval=interval), weight, step, logsnr)


def told_within(stage: Stage, cond: Conditioning, weight: PerClip, interval: Interval) -> Denoiser:
    """A network that has learned guidance, told each clip's weight."""

    def denoise(z: Video, logsnr: PerClip) -> Denoised:
        now = weight_within(interval, weight, logsnr).to(weight)
        return stage.denoiser(replace(cond, guidance=now))(z, logsnr)

    return denoise


def guidance_target(
    teacher: Stage, cond: Conditioning, weight: PerClip, interval: Interval
) -> Target:
    """What a teacher says in two calls under each clip's weight: paper section 8.1."""

    @torch.no_grad()
    def target(true: Denoised) -> Denoised:
        now = weight_within(interval, weight, true.logsnr).to(weight)
        return as_sampled(teacher, cond, now)(true.z, true.logsnr)

    return target


def as_sampled(teacher: Stage, cond: Conditioning, weight: PerClip) -> Denoiser:
    """A guided stage under each clip's weight, in one call or two, clipped where the weight is
    above 0: sampling clips there, and what guidance says without it can lie far outside."""
    if teacher.spec.unet.guided:
        denoise = teacher.denoiser(replace(cond, guidance=weight))
    else:
        denoise = guided(teacher.denoiser(cond.cat(cond.without_text())), weight)
    rule = make_rule(teacher.spec.sampler)

    def clipped(x: Video) -> Video:
        return torch.where(expand(weight, x) > 0, rule(x), x)

    return thresholded(denoise, clipped)
