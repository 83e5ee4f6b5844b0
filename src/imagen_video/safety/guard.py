"""A cascade that asks the filters: before any work, and when a video can be judged."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from imagen_video.cascade import Cascade
from imagen_video.safety.filters import Filters
from imagen_video.safety.frames import READABLE
from imagen_video.sampling import Progress, Sample, SampleSpec
from imagen_video.text.encoder import checked
from imagen_video.video import Frames


def guarded(cascade: Cascade, filters: Filters | None = None) -> "Guarded":
    """The cascade's calls with filters (default: the shipped ones) around them."""
    return Guarded(cascade, filters or Filters.of())


def filtered(cascade: Cascade, filters: Filters | None) -> "Cascade | Guarded":
    """The cascade with filters around it, or itself without any."""
    return cascade if filters is None else guarded(cascade, filters)


@dataclass(frozen=True)
class Guarded:
    """The calls of `Cascade` with the same arguments, which raise Refused: at once for a prompt or
    a given video, else when the first stage of READABLE rows, or the last stage, has made a video
    that is withheld. What comes after it is not run."""

    cascade: Cascade
    filters: Filters

    def __call__(self, prompts: str | Sequence[str], **options: Any) -> Sample:
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        wanted = SampleSpec(**options)
        return self.cascade.collect(self.stream(prompts, wanted), prompts, wanted)

    def stream(
        self,
        prompts: Sequence[str],
        wanted: SampleSpec,
        *,
        low: Frames | None = None,
        low_fps: float | None = None,
    ) -> Iterator[Progress]:
        """As `Cascade.stream`."""
        self.filters.refuse_prompts(checked(prompts))
        stages = self.cascade.plan(wanted, low_frames=None if low is None else len(low))
        if low is not None:
            self._refuse_given(low, prompts)
        steps = self.cascade.stream(prompts, wanted, low=low, low_fps=low_fps)
        return self._watched(steps, prompts, stages[-1].spec.name)

    def upscale(
        self, video: Frames, prompt: str = "", *, stages: Sequence[str] = ("ssr3",), **options: Any
    ) -> Iterator[Progress]:
        """As `Cascade.upscale`."""
        self.filters.refuse_prompts([prompt])
        self._refuse_given(video, [prompt])
        steps = self.cascade.upscale(video, prompt, stages=stages, **options)
        return self._watched(steps, [prompt], stages[-1] if stages else "")

    def _refuse_given(self, video: Frames, prompts: Sequence[str]) -> None:
        if video.shape[-2] >= READABLE:
            self.filters.withhold(video, prompts, 0, stage="reading it")

    def _watched(
        self, steps: Iterator[Progress], prompts: Sequence[str], last: str
    ) -> Iterator[Progress]:
        """The same progress, until a video is withheld."""
        read: set[int] = set()
        with closing(steps):  # pyright: ignore[reportArgumentType]
            for progress in steps:
                video, index = progress.video, progress.prompt
                if video is not None:
                    first = index not in read and video.shape[-2] >= READABLE
                    if first or progress.stage == last:
                        self.filters.withhold(video, prompts, index, stage=progress.stage)
                        read.add(index)
                yield progress
