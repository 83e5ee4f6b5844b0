"""What a run does around its steps: its options, its clocks, its schedule, how it is stopped."""

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from imagen_video.distributed import Lost
from imagen_video.files import Unreachable
from imagen_video.spec import StageSpec, TrainSpec
from imagen_video.training.guard import Exploded
from imagen_video.video import VideoFormat
from imagen_video.weights import working_dtype

# GPUs of one machine.
NODE = 8


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """What a run does besides the stage's own `TrainSpec`. `minutes` only stops early; `captions`
    is a folder of embeddings read instead of running the text encoder. A batch is computed in
    `accumulate` parts; `keep` checkpoints are kept, and the best."""

    seed: int = 0
    minutes: float | None = None
    save_minutes: float = 5.0
    sheet_minutes: float = 15.0
    log_every: int = 20
    workers: int = 1
    captions: Path | None = None
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    accumulate: int = 1
    recompute: bool = False
    compiled: bool = False
    keep: int = 2
    tensorboard: bool = False

    def __post_init__(self):
        for name in ("save_minutes", "sheet_minutes", "log_every", "accumulate", "keep"):
            if not getattr(self, name) > 0:  # nor is NaN
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.minutes is not None and not self.minutes >= 0:
            raise ValueError(f"minutes must be 0 or more, got {self.minutes}")
        if self.workers < 0:
            raise ValueError(f"workers must be 0 or more, got {self.workers}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must lie in 0..2^63 - 1, got {self.seed}")

    def half(self, device: torch.device) -> bool:
        """Whether networks run in bfloat16; "auto": where the device is made for it."""
        if self.precision == "auto":
            return working_dtype(device) is torch.bfloat16
        return self.precision == "bf16"

    def check_shares(self, total: int, ranks: int) -> None:
        """ValueError where processes cannot share a batch of so many rows equally."""
        if total % (ranks * self.accumulate):
            fits = [n for n in range(1, total + 1) if total % n == 0]
            raise ValueError(
                f"a batch of {total} (clips and image_packs) cannot be shared equally by {ranks} "
                f"processes in {self.accumulate} parts each: their product must be one of {fits}"
            )


class Every:
    """Answers yes once every so many minutes."""

    def __init__(self, minutes: float):
        self.seconds, self.last = 60 * minutes, time.monotonic()

    def __call__(self) -> bool:
        now = time.monotonic()
        due = now - self.last >= self.seconds
        self.last = now if due else self.last
        return due


def ranks_for(total: int, most: int, *, shards: int = 1, accumulate: int = 1) -> int:
    """The most processes, on one machine of NODE or on whole ones, that share a batch equally;
    ValueError where no number does."""
    if shards < 1 or accumulate < 1:
        raise ValueError(f"shards and accumulate must be above 0, got {shards} and {accumulate}")
    counts = range(shards, min(most, total) + 1, shards)
    whole = (n for n in counts if n <= NODE or n % NODE == 0)
    fitting = [n for n in whole if total % (n * accumulate) == 0]
    if not fitting:
        raise ValueError(
            f"a batch of {total} (clips and image_packs) cannot be shared by up to {most} "
            f"processes, {shards} shards a network, in {accumulate} parts: give fewer of those"
        )
    return fitting[-1]


@contextmanager
def noting_interrupt() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C or SIGTERM came, to be asked between steps: half a step would spoil the
    resume. A second Ctrl-C interrupts at once.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def note(number: int, frame: object) -> None:
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        # When one process is lost torchrun ends the others: their last words come first.
        if not isinstance(sys.exception(), Lost):
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def keeping(save: Callable[[], None]) -> Iterator[None]:
    """Save what is learned before data that cannot be read or reached ends a run."""
    try:
        yield
    except Exploded:
        raise
    except (ValueError, Unreachable):
        with suppress(ValueError, OSError):  # the first one tells
            save()
        raise


def rate_at(step: int, train: TrainSpec) -> float:
    """Linear warm-up, constant, linear cool-down to 0 over the last `cooldown` steps."""
    up = min(1.0, (step + 1) / max(1, train.warmup))
    down = min(1.0, (train.steps - step) / max(1, train.cooldown))
    return min(up, down)


def trained_format(spec: StageSpec) -> VideoFormat:
    """What a row of a batch is: the stage's output, shortened, thinned and cropped."""
    train, whole = spec.train, spec.output
    height, width = train.crop or whole.size
    frames = len(range(0, train.frames or whole.frames, train.stride))
    return replace(whole, frames=frames, height=height, width=width)


def with_steps(spec: StageSpec, steps: int | None) -> StageSpec:
    """The stage with another length of schedule, whose cool-down shrinks with it."""
    if steps is None:
        return spec
    cooldown = min(spec.train.cooldown, steps // 4)
    return replace(spec, train=replace(spec.train, steps=steps, cooldown=cooldown))
