"""What is seen of a run: losses by noise level and kind, speed, memory; JSONL and TensorBoard."""

import json
import math
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from imagen_video.data.mix import Batch
from imagen_video.diffusion.objective import Loss
from imagen_video.distributed import Ranks
from imagen_video.files import replacing

T = TypeVar("T")

# Bounds of log-SNR between which losses are told apart.
LEVELS = (-8.0, -4.0, 0.0, 4.0)


class Watch:
    """Sums over the steps since the last line of the log, on every process."""

    def __init__(self, ranks: Ranks, *, flops_per_row: int, peak_flops: float):
        self.ranks, self.flops_per_row, self.peak = ranks, flops_per_row, peak_flops
        self._clear()

    def _clear(self) -> None:
        self._rows: list[Tensor] = []
        self._start, self.waited = time.monotonic(), 0.0
        self.rows = self.slowed = 0

    def waiting(self, loader: Iterator[T]) -> Iterator[T]:
        """The same batches, with the time they were waited for noted."""
        while True:
            start = time.monotonic()
            batch = next(loader, None)
            self.waited += time.monotonic() - start
            if batch is None:
                return
            yield batch

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What is done meanwhile is no training, and no part of its speed."""
        start = time.monotonic()
        yield
        self._start += time.monotonic() - start

    def saw(self, loss: Loss, batch: Batch) -> None:
        """One part of a batch; nothing is brought to the CPU before the next line."""
        kind = batch.is_video.to(loss.per_clip.device)
        self._rows.append(torch.stack([loss.per_clip.detach(), loss.logsnr, kind.float()]))
        self.slowed += batch.slowed
        self.rows += len(kind)

    def facts(self) -> dict[str, Any]:
        """Means over every process since the last call, which all of them make together; of what
        is waited for and held, that of the process which has most of it."""
        rows = torch.cat(self._rows, 1).double().cpu()
        # Of a skipped step, which is counted; a single one would hide all the others.
        loss, logsnr, video = rows[:, rows[0].isfinite()]
        level = torch.bucketize(logsnr.float(), torch.tensor(LEVELS))
        groups = [torch.ones_like(video), video, 1 - video]
        groups += [(level == i).double() for i in range(len(LEVELS) + 1)]
        own = [value for group in groups for value in ((group * loss).sum(), group.sum())]
        seconds = time.monotonic() - self._start
        counts = torch.tensor([self.rows, self.slowed], dtype=torch.float64)
        *sums, shown, slowed = self.ranks.total(torch.cat([torch.stack(own), counts])).tolist()
        means = [s / n if n else None for s, n in zip(sums[::2], sums[1::2], strict=True)]
        speed = shown / seconds
        wait, memory = self._most(self.waited / seconds, float(_memory(self.ranks.device)))
        found = {
            "loss": means[0],
            "loss_video": means[1],
            "loss_image": means[2],
            "loss_by_logsnr": dict(zip(_names(), means[3:], strict=True)),
            "clips_per_second": speed,
            "flops_share": self.flops_per_row * speed / (self.peak * self.ranks.ranks),
            "data_wait": wait,
            "memory_bytes": int(memory),
            "slowed_clips": int(slowed),
        }
        self._clear()
        return {name: _short(value) for name, value in found.items()}

    def _most(self, *own: float) -> list[float]:
        """The largest of every process's, of each."""
        every = torch.zeros(self.ranks.ranks, len(own), dtype=torch.float64)
        every[self.ranks.rank] = torch.tensor(own, dtype=torch.float64)
        return self.ranks.total(every).amax(0).tolist()


def _names() -> list[str]:
    bounds = ["", *(f"{level:g}" for level in LEVELS), ""]
    return [f"{a}..{b}" for a, b in pairwise(bounds)]


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _short(inner) for name, inner in value.items()}
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _memory(device: torch.device) -> int:
    """The most that the device, or this process, has held so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


LOG = "log.jsonl"


def read_log(folder: Path, last: int = 0) -> list[dict[str, Any]]:
    """The lines of a run's log, or so many at its end; not those that a kill has torn."""
    path, found = folder / LOG, []
    for line in path.read_text().splitlines()[-last:] if path.exists() else ():
        with suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return found


class Log:
    """log.jsonl always, and TensorBoard's files beside it if asked for."""

    def __init__(self, folder: Path, *, step: int, tensorboard: bool):
        self.path = folder / LOG
        self._cut(step)
        self._board = _board(folder / "tensorboard", step) if tensorboard else None

    def write(self, facts: dict[str, Any]) -> None:
        """One line; `facts` has a step. What is not finite is null: JSON knows no other word."""
        facts = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in facts.items()
        }
        with open(self.path, "a") as file:
            file.write(json.dumps(facts) + "\n")
        if self._board is not None:
            for name, value in _flat(facts):
                self._board.add_scalar(name, value, facts["step"])
            self._board.flush()

    def show(self, step: int, sheet: Path) -> None:
        """A sample sheet, and where it and its video lie."""
        if self._board is not None:
            self._board.add_image("sheet", _picture(sheet), step)
            self._board.add_text("samples", str(sheet.with_suffix(".mp4")), step)
            self._board.flush()

    def _cut(self, step: int) -> None:
        """Leave out what a killed run did after its last checkpoint: it is done again."""
        if not self.path.exists():
            return
        kept = [facts for facts in read_log(self.path.parent) if facts["step"] <= step]
        with replacing(self.path) as new:
            new.write_text("".join(f"{json.dumps(facts)}\n" for facts in kept))


def _board(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError("--tensorboard needs tensorboard: pip install tensorboard") from error
    return SummaryWriter(str(folder), purge_step=step + 1)


def _picture(path: Path) -> Any:
    import numpy as np
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image).transpose(2, 0, 1)


def _flat(facts: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    flat = []
    for name, value in facts.items():
        if isinstance(value, dict):
            flat += _flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            flat.append((prefix + name, float(value)))
    return flat
