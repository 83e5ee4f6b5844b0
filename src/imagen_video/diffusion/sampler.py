"""From noise to video: the loop over denoisers and its moves (paper sections 5.1, 8.3)."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from imagen_video.diffusion.denoised import Denoised, Denoiser
from imagen_video.diffusion.schedule import CosineSchedule, alpha_sigma, expand, step_times
from imagen_video.video import ALL, PerClip, Video


@dataclass(frozen=True)
class Noise:
    """Normal noise, the only randomness of sampling, keyed by (seed, sample, stage, step).

    Clip i of a batch is sample + i, so a seed means the same noise on any device and in any batch.
    """

    seed: int

    def __call__(
        self, shape: tuple[int, int, int, int, int], *, stage: str, step: int, sample: int = 0
    ) -> Video:
        """Noise of this (b, f, c, h, w), float32 on the CPU."""
        return self.in_turn(shape, stage=stage, step=step, sample=sample)(shape[1])

    def in_turn(
        self, shape: tuple[int, int, int, int, int], *, stage: str, step: int, sample: int = 0
    ) -> Callable[[int], Video]:
        """The same noise, of the next so many frames a call."""
        clips = range(sample, sample + shape[0])
        generators = [keyed_generator(self.seed, i, stage, step) for i in clips]
        return lambda frames: next_frames(generators, (frames, *shape[2:]))


def next_frames(generators: Sequence[torch.Generator], shape: tuple[int, int, int, int]) -> Video:
    """Noise of this (f, c, h, w) from each generator, frame by frame: what is drawn in parts is
    what is drawn at once."""
    noise = torch.empty(len(generators), *shape)
    for clip, generator in zip(noise, generators, strict=True):
        for frame in clip:
            frame.normal_(generator=generator)
    return noise


def keyed_generator(*key: int | str, device: str | torch.device = "cpu") -> torch.Generator:
    """A generator whose numbers depend on every part of the key, and on nothing else."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=4).digest()
    # Four bytes: the CPU's generator takes 32 bits.
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little"))


@dataclass(frozen=True)
class Levels:
    """The log-SNRs around one step from t to s: k is one step beyond s, so k < s < t as times.

    `same_denoiser` is whether the step before used the same denoiser, so that the two predictions
    may be compared: under another guidance weight they are answers to two questions.
    """

    logsnr_t: PerClip
    logsnr_s: PerClip
    logsnr_k: PerClip
    same_denoiser: bool


Move = Callable[[Denoised, Denoised | None, Levels, Callable[[], Video]], Video]
"""(now, before, levels, draw) -> z_s: before is the step before, draw() this step's noise.

A move outside MULTISTEP may write z_s over now.said."""


def ddim(
    now: Denoised, before: Denoised | None, levels: Levels, draw: Callable[[], Video]
) -> Video:
    """The deterministic first-order move: alpha_s x + sigma_s eps."""
    return now.turned(levels.logsnr_s)


def ancestral(gamma: float) -> Move:
    """The posterior's mean plus noise: gamma 0 its variance, gamma 1 the forward process's."""
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma is {gamma}; it blends two log-variances and must lie in [0, 1]")

    def move(
        now: Denoised, before: Denoised | None, levels: Levels, draw: Callable[[], Video]
    ) -> Video:
        alpha_t, sigma_t = alpha_sigma(levels.logsnr_t)
        alpha_s, sigma_s = alpha_sigma(levels.logsnr_s)
        difference = levels.logsnr_t - levels.logsnr_s
        fresh = -torch.expm1(difference)
        of_z, of_x = difference.exp() * alpha_s / alpha_t, fresh * alpha_s
        spread = fresh.sqrt() * sigma_s ** (1 - gamma) * sigma_t**gamma
        along_z, along_said = now.towards(torch.full_like(levels.logsnr_t, torch.inf))  # to x
        z = now.said.mul_(expand(of_x * along_said, now.z))
        z.addcmul_(now.z, expand(of_z + of_x * along_z, z))
        return z.addcmul_(draw(), expand(spread, z))

    return move


def stochastic(
    now: Denoised, before: Denoised | None, levels: Levels, draw: Callable[[], Video]
) -> Video:
    """Guided distillation's sampler: a DDIM move of two steps, then fresh noise one step back."""
    alpha_s, sigma_s = alpha_sigma(levels.logsnr_s)
    alpha_k, _ = alpha_sigma(levels.logsnr_k)
    fresh = -torch.expm1(levels.logsnr_s - levels.logsnr_k)
    z = now.turned(levels.logsnr_k).mul_(expand(alpha_s / alpha_k, now.z))
    return z.addcmul_(draw(), expand(fresh.sqrt() * sigma_s, z))


def dpmpp_2m(
    now: Denoised, before: Denoised | None, levels: Levels, draw: Callable[[], Video]
) -> Video:
    """DPM-Solver++(2M), second order: DDIM with x extrapolated from the step before.

    First order on the first step and wherever the denoiser changed: extrapolating guidance weights
    15 and 1 that alternate would amplify the alternation. The end of the run is first order by
    construction (`denoise_steps` returns x): the log-SNR jumps to its maximum there, and an
    extrapolation over that jump would be wild.
    """
    z = now.at(levels.logsnr_s)
    if before is None or not levels.same_denoiser:
        return z
    step, last_step = levels.logsnr_s - levels.logsnr_t, levels.logsnr_t - before.logsnr
    alpha_s, _ = alpha_sigma(levels.logsnr_s)
    ahead = alpha_s * -torch.expm1(-step / 2) * step / (2 * last_step)
    for prediction, sign in ((now, 1), (before, -1)):  # z += ahead * (now.x - before.x), in place
        alpha, sigma = alpha_sigma(prediction.logsnr)
        z.addcmul_(prediction.z, expand(sign * ahead * alpha, z))
        z.addcmul_(prediction.v, expand(-sign * ahead * sigma, z))
    return z


MULTISTEP: frozenset[Move] = frozenset({dpmpp_2m})
"""The moves that read `before`; for the others the loop lets go of it: two videos of memory."""


@dataclass
class SamplerState:
    """One step of a run: step 0 .. num_steps - 1, the noisy video z and the prediction x from it.

    Of a run in windows it is about some `frames` alone, the `part` (i of n) of a step. The x of the
    last step is the result (`finished`). A state is alive until the next one is asked for, so that
    a `for` loop's variable does not hold two videos while the network runs: take x, a new video at
    every access, inside the loop.
    """

    step: int
    num_steps: int
    _now: Denoised | None
    frames: slice = field(default_factory=lambda: ALL)
    part: tuple[int, int] = (0, 1)

    @property
    def x(self) -> Video:
        return self._alive.x

    @property
    def z(self) -> Video:
        return self._alive.z

    def x_of(self, frames: slice) -> Video:
        """The prediction of some frames alone: of the last stage's clip, x is 1.5 GB."""
        now = self._alive
        return replace(now, z=now.z[:, frames], said=now.said[:, frames]).x

    @property
    def _alive(self) -> Denoised:
        if self._now is None:
            raise ValueError(f"step {self.step} is over: take x and z before asking for the next")
        return self._now

    def release(self) -> Denoised:
        """What the step knew, which the state then holds no longer."""
        now, self._now = self._alive, None
        return now


def denoise_steps(
    denoisers: Sequence[Denoiser],
    schedule: CosineSchedule,
    draw: Callable[[int], Video],
    *,
    move: Move = ddim,
) -> Iterator[SamplerState]:
    """Walk from pure noise to video, one denoiser a step, at uniform times from 1 to 0.

    `draw(0)` is the start, `draw(i + 1)` the fresh noise between states i and i + 1, asked for by
    moves that are random; its device and dtype are the run's. The last state's x is the result:
    there is no move after it.
    """
    num_steps = len(denoisers)
    grid = schedule(step_times(num_steps))
    z, before = draw(0), None
    for step, denoise in enumerate(denoisers):
        around = (_per_clip(grid[i], z) for i in (step, step + 1, min(step + 2, num_steps)))
        same_denoiser = step > 0 and denoise is denoisers[step - 1]
        levels = Levels(*around, same_denoiser=same_denoiser)
        state = SamplerState(step, num_steps, denoise(z, levels.logsnr_t))
        yield state
        now = state.release()
        if step + 1 < num_steps:
            z = move(now, before, levels, partial(draw, step + 1))
            before = now if move in MULTISTEP else None
        del now


@dataclass(frozen=True)
class Window:
    """Frames `kept` of a clip, for which denoisers, one a step, look at the frames `seen`."""

    seen: slice
    kept: slice
    denoisers: Sequence[Denoiser]


def denoise_windows(
    windows: Sequence[Window], schedule: CosineSchedule, draw: Callable[[int], Video]
) -> Iterator[SamplerState]:
    """`denoise_steps` by DDIM, window after window: one state a window and step.

    `draw(n)` is the noise of the next n frames. Of several steps the memory is that of the whole
    noise, of one step that of what a window sees.
    """
    if len(windows[0].denoisers) > 1:
        yield from _denoise_in_place(windows, schedule, draw(windows[-1].kept.stop))
        return
    z, start = draw(0), 0
    for i, window in enumerate(windows):
        missing = window.seen.stop - start - z.shape[1]
        z = z[:, window.seen.start - start :].clone()  # what was before it is freed first
        z, start = torch.cat([z, draw(missing)], 1), window.seen.start
        now = window.denoisers[0](z, _per_clip(schedule(step_times(1))[0], z))
        state = SamplerState(0, 1, now, window.kept, (i, len(windows)))
        yield state
        state.release()
        del now


def _denoise_in_place(
    windows: Sequence[Window], schedule: CosineSchedule, z: Video
) -> Iterator[SamplerState]:
    """Several steps in the memory of z. What a window sees of those before it is as it was before
    their move: `around` has kept it."""
    num_steps, reach = len(windows[0].denoisers), max(w.kept.start - w.seen.start for w in windows)
    grid = schedule(step_times(num_steps))
    for step in range(num_steps):
        logsnr_t, logsnr_s = (_per_clip(grid[i], z) for i in (step, step + 1))
        around = z[:, :0]
        for i, window in enumerate(windows):
            moved = z[:, window.seen.start : window.kept.start]
            ahead = moved.clone()
            moved.copy_(around[:, around.shape[1] - moved.shape[1] :])
            now = window.denoisers[step](z[:, window.seen], logsnr_t)
            moved.copy_(ahead)
            state = SamplerState(step, num_steps, now, window.kept, (i, len(windows)))
            yield state
            now = state.release()
            kept = z[:, window.kept]
            around = torch.cat([around, kept[:, -reach:]], 1)[:, -reach:] if reach else around
            if step + 1 < num_steps:
                now.onto(kept, logsnr_s)
            del now


def finished(states: Iterable[SamplerState]) -> Video:
    """The video that a run comes to."""
    return torch.cat([state.x for state in states if state.step + 1 == state.num_steps], 1)


def _per_clip(logsnr: torch.Tensor, like: Video) -> PerClip:
    dtype = torch.promote_types(like.dtype, torch.float32)
    return logsnr.to(like.device, dtype).expand(len(like))
