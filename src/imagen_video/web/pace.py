"""How far a job is and how long it will take, from what its stages took before."""

import time
from dataclasses import dataclass
from functools import cache

from imagen_video.info import describe
from imagen_video.sampling import Progress
from imagen_video.spec import CascadeSpec, StageSpec


class Pace:
    """Seconds that a step of every stage takes at its full size: as `info` estimates them for this
    machine, until a job has shown them. Workers on several devices share one."""

    def __init__(self, spec: CascadeSpec):
        self._step = dict(_estimated(spec))

    def seconds(self, stage: StageSpec, scale: float) -> float:
        """Of a whole stage, on `scale` times the pixels of its format."""
        return self._step[stage.name] * stage.sampler.num_steps * scale

    def learn(self, stage: StageSpec, scale: float, seconds: float) -> None:
        """What a whole stage took."""
        self._step[stage.name] = seconds / (stage.sampler.num_steps * scale)


@cache
def _estimated(spec: CascadeSpec) -> tuple[tuple[str, float], ...]:
    """Seconds a step, by stage; counting takes a while."""
    return tuple((row.stage, row.seconds / row.steps) for row in describe(spec))


@dataclass(frozen=True)
class Leg:
    """One stage of a job, and how many times the pixels of its format it makes."""

    stage: StageSpec
    scale: float


class Journey:
    """The stages of one job against the clock; `share` is done of the whole, `eta` seconds left."""

    def __init__(self, legs: list[Leg], pace: Pace, *, after: str | None):
        """`after` is the stage that was finished before."""
        self._pace = pace
        names = [leg.stage.name for leg in legs]
        first = names.index(after) + 1 if after else 0
        self._done = self._together(legs[:first])
        self._ahead = legs[first:]
        self._began = time.monotonic()
        self.share, self.eta = 0.0, 0.0
        self._tell(0.0, self._together(self._ahead))

    def step(self, progress: Progress) -> None:
        """Take note of a step that is done."""
        leg, later = self._ahead[0], self._ahead[1:]
        spent = time.monotonic() - self._began
        part = (progress.step + 1) / progress.num_steps
        left = self._together(later)
        if progress.video is None:
            self._tell(spent, spent * (1 - part) / part + left)
            return
        self._pace.learn(leg.stage, leg.scale, spent)
        self._done += spent
        self._ahead, self._began = later, time.monotonic()
        self._tell(0.0, left)

    def _together(self, legs: list[Leg]) -> float:
        return sum((self._pace.seconds(leg.stage, leg.scale) for leg in legs), 0.0)

    def _tell(self, spent: float, left: float) -> None:
        done = self._done + spent
        # A stage that turns out slower than was thought does not undo what is done.
        self.share, self.eta = max(self.share, done / max(done + left, 1e-9)), left
