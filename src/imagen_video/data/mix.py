"""Batches of videos and packed images (paper section 7)."""

import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from imagen_video.data import bad_samples
from imagen_video.data.clips import Crop, Position, Source
from imagen_video.data.order import fraction
from imagen_video.files import Unreachable
from imagen_video.shapes import Bool, Int, UInt8
from imagen_video.spec import StageSpec

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """Clips first, then sequences of independent images; one caption a frame for those.

    `rows` says which rows of the whole batch of `total` these are, and `slowed` how many of the
    clips are shown slower than they were.
    """

    video: UInt8[Tensor, "b f c h w"]
    captions: tuple[tuple[str, ...], ...]
    is_video: Bool[Tensor, " b"]
    frame_index: Int[Tensor, " f"]
    rows: tuple[int, ...]
    total: int
    slowed: int = 0

    def parts(self, count: int) -> Iterator["Batch"]:
        """The batch in `count` equal parts, as gradients are accumulated over; what is `slowed` in
        any is told of the first, so that the parts add up."""
        for i in range(count):
            part = slice(i, None, count)
            yield replace(
                self,
                video=self.video[part],
                captions=self.captions[part],
                is_video=self.is_video[part],
                rows=self.rows[part],
                slowed=self.slowed if i == 0 else 0,
            )


class Mix(Dataset):
    """Batch k of a stage's training: a pure function of (source, seed, k).

    With several `ranks` each has every ranks-th row of the batch. All frames of a clip share one
    crop. Crops of super-resolution stages start on whole low-resolution pixels and frames, so that
    the low-resolution input is the same region.
    """

    def __init__(
        self,
        source: Source,
        stage: StageSpec,
        *,
        seed: int,
        steps: int,
        rank: int = 0,
        ranks: int = 1,
    ):
        self.source, self.stage, self.seed, self.steps = source, stage, seed, steps
        self.total = stage.train.clips + stage.train.image_packs
        self.rows = tuple(range(rank, self.total, ranks))
        shown = stage.train.frames or stage.output.frames
        # Of every stride the first of the frames shown is drawn: no pack has more than this.
        self.stills = len(range(0, shown, stage.train.stride))

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        train = self.stage.train
        first = self._drawn(train.stride, step)
        index = torch.arange(first, train.frames or self.stage.output.frames, train.stride)
        videos, captions, slowed = [], [], 0
        for row in self.rows:
            if row < train.clips:
                crop = self._crop(step, row, 0)
                example = self.source.clip(step * train.clips + row, self.stage.output, crop)
                videos.append(example.video[first :: train.stride])
                captions.append((example.caption,) * len(index))
                slowed += "slowed" in example.attributes
            else:
                video, texts = self._pack(step, row, len(index))
                videos.append(video)
                captions.append(texts)
        is_video = torch.tensor([row < train.clips for row in self.rows])
        video = torch.stack(videos)
        return Batch(video, tuple(captions), is_video, index, self.rows, self.total, slowed)

    def captions(self, step: int) -> list[str]:
        """What batch `step` and its stills say; of each a pixel is read."""
        said = []
        train, still = self.stage.train, replace(self.stage.output, frames=1)
        pixel = Crop(frame=0, top=0, left=0, frames=1, height=1, width=1)
        for row in self.rows:
            if row < train.clips:
                index = step * train.clips + row
                said.append(self.source.clip(index, self.stage.output, pixel).caption)
            else:
                start = self._first_of_pack(step, row)
                for index in range(start, start + self.stills):
                    said.append(self.source.image(index, still, pixel).caption)
        return said

    def position(self, step: int) -> dict[str, Position]:
        """Where every source stands before step `step`."""
        train = self.stage.train
        drawn = -(-step // train.echoes)
        return self.source.position(drawn * train.clips, drawn * train.image_packs * self.stills)

    def _pack(self, step: int, row: int, frames: int) -> tuple[Tensor, tuple[str, ...]]:
        """Independent images in a sequence of the clip's length, with a caption each."""
        still = replace(self.stage.output, frames=1)
        start = self._first_of_pack(step, row)
        pack = [
            self.source.image(start + j, still, self._crop(step, row, j)) for j in range(frames)
        ]
        return torch.cat([example.video for example in pack]), tuple(e.caption for e in pack)

    def _first_of_pack(self, step: int, row: int) -> int:
        train = self.stage.train
        return (step * train.image_packs + row - train.clips) * self.stills

    def _crop(self, step: int, row: int, image: int) -> Crop:
        full, train = self.stage.output, self.stage.train
        frames, (height, width) = train.frames or full.frames, train.crop or full.size
        time, space = self.stage.time_factor, self.stage.space_factor
        rooms = (full.frames - frames, full.height - height, full.width - width)
        frame, top, left = (
            unit * self._drawn(room // unit + 1, step, row, image, axis)
            for axis, (room, unit) in enumerate(zip(rooms, (time, space, space), strict=True))
        )
        return Crop(
            frame=frame,
            top=top,
            left=left,
            frames=frames,
            height=height,
            width=width,
        )

    def _drawn(self, count: int, *what: int) -> int:
        """One of range(count), always the same for the same question."""
        return int(count * fraction(self.seed, *what))


class _Answers(Dataset):
    """What is asked of a number, or the error in place of it: raised in a worker it would come as
    a traceback in the words of another process."""

    def __init__(self, ask: Callable[[int], Any]):
        self.ask = ask

    def __getitem__(self, number: int) -> Any:
        try:
            return self.ask(number)
        except (ValueError, Unreachable) as error:
            return error


def _begin(notes: Tensor, worker: int) -> None:
    """The process that trains is told to stop, and says when its workers have done enough."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    bad_samples.join(notes, worker)


def batches(mix: Mix, *, start: int, workers: int = 1) -> Generator[Batch]:
    """The batch of every step from `start` on, rendered ahead in worker processes; to be closed.

    Echoes are one batch after the other, and the same object. Work with them belongs into
    `surviving`.
    """
    echoes = mix.stage.train.echoes
    drawn = range(start // echoes, -(-mix.steps // echoes))
    loader = read_apart(mix.__getitem__, drawn, workers=workers, ahead=4)
    for number, batch in zip(drawn, loader, strict=True):
        steps = range(number * echoes, min((number + 1) * echoes, mix.steps))
        yield from (batch for step in steps if step >= start)


def read_apart(
    ask: Callable[[int], T], numbers: range, *, workers: int = 1, ahead: int = 1
) -> Generator[T]:
    """What `ask` says of every number, in processes of their own, as what is read may end them;
    `ahead` each of what is taken. To be closed; work with it belongs into `surviving`. ValueError
    for less than 0 processes."""
    if workers < 0:
        raise ValueError(f"workers must be 0 or more, got {workers}")
    loader = DataLoader(
        _Answers(ask),
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        prefetch_factor=ahead if workers else None,
        worker_init_fn=partial(_begin, bad_samples.share(workers)),
        timeout=bad_samples.SILENT if workers else 0,
    )
    for answer in loader:
        if isinstance(answer, Exception):
            raise answer
        yield answer


@contextmanager
def surviving(loader: Generator[Any]) -> Iterator[None]:
    """Closes the loader at the end; a file that killed or held up its reader is named, in a
    ValueError, and left out when the run goes on."""
    with bad_samples.surviving(), closing(loader):
        yield
