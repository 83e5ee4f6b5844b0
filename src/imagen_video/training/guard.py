"""Steps that would spoil a network: skipped, counted, and after a few in a row undone."""

import math
import statistics
from collections import deque
from enum import Enum

# A gradient so many times the usual one would undo more than a step's work, even clipped.
EXPLODED = 20.0
USUAL = 100  # steps that say what is usual
# After so many spoiled steps in a row the weights themselves are spoiled.
IN_A_ROW = 10
ROLLBACKS = 3


class Verdict(Enum):
    GOOD = "good"
    SKIP = "skip"
    ROLL_BACK = "roll back"


class Guard:
    """Judges gradient norms; its state is a part of a run's."""

    def __init__(self):
        self.norms: deque[float] = deque(maxlen=USUAL)
        self.skipped = self.in_a_row = self.rollbacks = 0

    def state(self) -> dict:
        return {"norms": list(self.norms), "skipped": self.skipped, "rollbacks": self.rollbacks}

    def restore(self, state: dict) -> None:
        self.norms = deque(state["norms"], maxlen=USUAL)
        self.skipped, self.rollbacks, self.in_a_row = state["skipped"], state["rollbacks"], 0

    def judge(self, norm: float) -> Verdict:
        """What to do with a step whose gradient has this norm."""
        usual = statistics.median(self.norms) if len(self.norms) == USUAL else math.inf
        if math.isfinite(norm) and norm <= EXPLODED * usual:
            self.norms.append(norm)
            self.in_a_row = 0
            return Verdict.GOOD
        self.skipped += 1
        self.in_a_row += 1
        if self.in_a_row < IN_A_ROW:
            return Verdict.SKIP
        self.in_a_row = 0
        self.rollbacks += 1
        return Verdict.ROLL_BACK
