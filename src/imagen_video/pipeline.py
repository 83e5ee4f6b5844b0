"""Videos of several prompts at once: a later stage of one beside an earlier stage of the next."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import combinations, pairwise

from imagen_video.sampling import Low, Progress, Run

Part = Callable[[Run, Low | None], Iterator[Progress]]
"""Some stages in a row for one prompt, from the video of the stage before them."""


@dataclass(eq=False)
class Lane:
    """Stages that share a device, in a thread of their own, and the prompts that wait for them."""

    part: Part
    thread: ThreadPoolExecutor
    after: "Lane | None" = None
    waiting: deque[tuple[Run, Low | None]] = field(default_factory=deque)
    run: Run | None = None
    steps: Iterator[Progress] = field(default_factory=lambda: iter(()))
    made: Low | None = None

    @property
    def free(self) -> bool:
        """Whether it can begin, with no more than one video waiting behind it."""
        room = self.after is None or not self.after.waiting
        return self.run is None and bool(self.waiting) and room

    def begin(self) -> None:
        """Take up the prompt that has waited longest."""
        self.run, low = self.waiting.popleft()
        self.steps, self.made = self.part(self.run, low), None

    def next(self) -> "Future[Progress | None]":
        """The next step, when it is done; None after the last."""
        return self.thread.submit(next, self.steps, None)

    def end(self) -> None:
        """Hand the video on."""
        if self.after is not None and self.run is not None:
            self.after.waiting.append((self.run, self.made))
        self.run = None

    def close(self) -> None:
        """End what is begun, in the thread that began it."""
        if self.run is not None:
            self.thread.submit(self.steps.close).result()  # pyright: ignore


def side_by_side(parts: Sequence[Part], runs: Sequence[Run], low: Low | None) -> Iterator[Progress]:
    """Every run through all parts in order, and different runs through different parts at once.

    A part goes on when the Progress that it came to was taken, so that its preview can be looked
    at; a video waits for its next part at most once, so that memory does not grow with prompts.
    """
    with ExitStack() as stack:
        threads = [stack.enter_context(ThreadPoolExecutor(1)) for _ in parts]
        lanes = [Lane(part, thread) for part, thread in zip(parts, threads, strict=True)]
        for lane, after in pairwise(lanes):
            lane.after = after
        for lane in lanes:
            stack.callback(lane.close)
        lanes[0].waiting.extend((run, low) for run in runs)
        going: dict[Future[Progress | None], Lane] = {}
        while True:
            for lane in reversed(lanes):  # who takes up a video makes room for the lane before
                if lane.free:
                    lane.begin()
                    going[lane.next()] = lane
            if not going:
                return
            for done in wait(going, return_when=FIRST_COMPLETED).done:
                lane, progress = going.pop(done), done.result()
                if progress is None:
                    lane.end()
                    continue
                if progress.video is not None:
                    lane.made = Low(progress.video, progress.fps)
                yield progress
                going[lane.next()] = lane


def shared_out(costs: Sequence[int], lanes: int) -> list[int]:
    """Which of so many lanes each stage is in, in order, so that the busiest has least to do;
    ValueError for more lanes than stages."""
    count = len(costs)
    if not 1 <= lanes <= count:
        raise ValueError(
            f"{count} stages cannot be shared by {lanes} devices: give at most {count}"
        )

    def busiest(cuts: tuple[int, ...]) -> int:
        return max(sum(costs[a:b]) for a, b in pairwise((0, *cuts, count)))

    cuts = min(combinations(range(1, count), lanes - 1), key=busiest)
    return [sum(cut <= stage for cut in cuts) for stage in range(count)]
