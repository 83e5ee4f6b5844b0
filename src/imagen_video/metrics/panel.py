"""The judges that come with the package, each asked about the clips that it can look at."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from imagen_video.metrics.judge import Accuracy, Judge, nearest_colour
from imagen_video.video import Frames

SHIPPED = Path(__file__).parent.parent / "judge"
JUDGES = ("motion", "look")
MATCHER = "match"
UNJUDGED = ("background", "rotation")
"""Told by colours and rendered views alone; their accuracies are kept with the first judge's."""


class Panel:
    """Answers about clips of the sticker world: its motion, concept and style, and the colour of
    its ground among `colours`. Of judges with the same question the one with the finest view that
    the clip fills is asked."""

    def __init__(self, judges: Sequence[Judge], colours: Mapping[str, tuple[int, int, int]]):
        self.judges = sorted(judges, key=lambda judge: judge.spec.view.height)
        self.colours = colours

    @classmethod
    def load(cls, folder: Path, colours: Mapping[str, tuple[int, int, int]]) -> "Panel":
        """The judges of a folder; ValueError where one is missing."""
        return cls([Judge.load(folder / f"{name}.safetensors") for name in JUDGES], colours)

    def __call__(self, clip: Frames) -> dict[str, str]:
        """The answer to every question that a judge can tell from this clip."""
        answers = {"background": nearest_colour(clip, self.colours)}
        for judge in self._fitting(len(clip), clip.shape[-2]):
            answers |= judge([clip])[0]
        return answers

    def accuracies(self, frames: int, height: int) -> dict[str, Accuracy]:
        """By question: how often the judges of such clips are right on ground truth of about
        their size; and what is told without a judge, of every clip."""
        found, fitting = {}, self._fitting(frames, height)
        for judge in self.judges:
            near = nearest_size(judge.accuracies, height)
            found |= {a.question: a for a in near if judge in fitting or a.question in UNJUDGED}
        return found

    def _fitting(self, frames: int, height: int) -> list[Judge]:
        return [
            judge
            for judge in self.judges
            if judge.spec.view.frames <= frames and judge.spec.view.height <= height
        ]


def nearest_size(accuracies: Sequence[Accuracy], height: int) -> list[Accuracy]:
    """Those on the largest clips that are no higher than `height`, or else on the smallest."""
    heights = {a.size: int(a.size.partition("x")[0]) for a in accuracies}
    smaller = [known for known in heights.values() if known <= height]
    best = max(smaller) if smaller else min(heights.values(), default=0)
    return [a for a in accuracies if heights[a.size] == best]
