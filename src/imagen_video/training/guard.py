"""Steps that would spoil a network: skipped, counted, and after a few in a row undone."""

import math
import statistics
from collections import deque
from enum import Enum

# A gradient or a loss so many times the usual one would undo more than a step's work.
EXPLODED = 20.0
USUAL = 100  # steps that say what is usual, and after which earlier trouble is forgotten
# After so many spoiled steps in a row the weights themselves are spoiled.
IN_A_ROW = 10
ROLLBACKS = 3


class Exploded(ValueError):
    """Steps are spoiled, and no checkpoint helps: what is trained now is not worth keeping."""


class Verdict(Enum):
    GOOD = "good"
    SKIP = "skip"
    ROLL_BACK = "roll back"


class Guard:
    """Judges steps by the norm of their gradient and their loss; its state is a part of a run's.

    `rollbacks` are those since the last USUAL good steps in a row, `skipped` all of the run.
    """

    def __init__(self):
        self.seen: deque[tuple[float, float]] = deque(maxlen=USUAL)
        self.skipped = self.in_a_row = self.rollbacks = self.good = 0

    def state(self) -> dict:
        counts = {name: getattr(self, name) for name in ("skipped", "rollbacks", "good")}
        return {"seen": list(self.seen), **counts}

    def restore(self, state: dict) -> None:
        seen = map(tuple, state.get("seen", ()))  # checkpoints of before kept norms alone
        self.seen = deque(seen, maxlen=USUAL)
        self.skipped, self.rollbacks = state["skipped"], state["rollbacks"]
        self.in_a_row, self.good = 0, state.get("good", 0)

    def judge(self, norm: float, loss: float) -> Verdict:
        """What to do with a step whose gradient and loss are these."""
        usual = (math.inf, math.inf)
        if len(self.seen) == USUAL:
            usual = tuple(map(statistics.median, zip(*self.seen, strict=True)))
        found = (norm, loss)
        if all(math.isfinite(f) and f <= EXPLODED * u for f, u in zip(found, usual, strict=True)):
            self.seen.append(found)
            self.in_a_row, self.good = 0, self.good + 1
            if self.good >= USUAL:
                self.rollbacks = 0
            return Verdict.GOOD
        self.good = 0
        self.skipped += 1
        self.in_a_row += 1
        if self.in_a_row < IN_A_ROW:
            return Verdict.SKIP
        self.in_a_row = 0
        self.rollbacks += 1
        return Verdict.ROLL_BACK
