"""Samples that cannot be used: counted on disk, those that end the process which reads them too.

A decoder may crash, take all memory or never end, and say nothing. So every reader writes what it
is about to read into memory that it shares with the process that started it.
"""

import fcntl
import json
import math
import multiprocessing
import os
import re
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imagen_video.data.media import Unfit

BAD_SAMPLES = "bad_samples.jsonl"
# Bytes for what one process reads: a path and a source.
ROOM = 16384
# Seconds without an answer after which something that is read does not give one.
SILENT = 1800
_notes: list[Tensor] = []
_own: np.ndarray | None = None


class TooManyBad(ValueError):
    """A data set that is not worth training on."""


class Fatal(ValueError):
    """A sample that ended the process that read it."""


@dataclass
class BadSamples:
    """The file of samples that were skipped, one JSON line each: source, path, reason, whether it
    is broken or only unfit for this stage, and whether it is Fatal.

    Every worker and rank appends to the same file. A source of which this run finds more than
    `limit` (a share of what it has tried, or of TRIED or the whole set if that was less) broken is
    a TooManyBad; what is held out of training is a `part` that is counted by itself. Lines of
    earlier runs are a record and no charge: a file may have been mended. Only what is Fatal is not
    read again, until its line is deleted.
    """

    path: Path
    limit: float = 0.05
    part: str = "train"
    _seen: set[tuple[str, str, bool]] = field(default_factory=set, init=False)
    _broken: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set), init=False)
    _read: int = field(default=0, init=False)
    _start: int = field(default=0, init=False)
    _fatal: set[tuple[str, str]] = field(default_factory=set, init=False)

    def __post_init__(self):
        before = self.path.read_bytes() if self.path.exists() else b""
        self._start = len(before)
        self._fatal = {(f["source"], f["path"]) for f in _lines(before) if f.get("fatal")}

    def renew(self) -> None:
        """Begin the file anew, but do not forget what is Fatal."""
        self.path.unlink(missing_ok=True)
        self._start = 0

    @contextmanager
    def reading(self, source: str, name: str) -> Iterator[None]:
        """`Row.name` of a source is read meanwhile, and known by name if it ends this process (see
        `surviving`); Fatal if it has ended another."""
        if (source, name) in self._fatal:
            raise Fatal("a process that read it died or never ended")
        with _noted(bad=str(self.path), source=source, path=name):
            yield

    def add(self, source: str, name: str, error: ValueError, *, of: int) -> None:
        """Count a sample, `Row.name` of one of so many of its source (`of`), once."""
        fatal, broken = isinstance(error, Fatal), not isinstance(error, Unfit)
        line = {"source": source, "part": self.part, "path": name}
        line |= {"reason": str(error), "broken": broken}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab+") as file:
            with suppress(OSError):  # of file systems without locks: a line may come twice
                fcntl.flock(file, fcntl.LOCK_EX)
            self._catch_up(file)
            if (source, name, fatal) not in self._seen:
                told = line | ({"fatal": True} if fatal else {})
                file.write(json.dumps(told).encode() + b"\n")
        if broken:
            self._broken[source].add(name)
        count = len(self._broken[source])
        if count > self.limit * of:
            raise TooManyBad(
                f"{count} of the {of} samples of {source} are broken, more than {self.limit:.0%}: "
                f"see {self.path}; mend or remove them (train --max-bad allows more); one of them: "
                f"{error}"
            )

    def _catch_up(self, file: BufferedIOBase) -> None:
        """Take note of what this and other processes wrote."""
        file.seek(self._read)
        for line in file.readlines():
            self._read += len(line)
            for facts in _lines(line):
                self._seen.add((facts["source"], facts["path"], facts.get("fatal", False)))
                own = facts["broken"] and facts.get("part") == self.part
                if own and self._read > self._start:
                    self._broken[facts["source"]].add(facts["path"])


def _lines(content: bytes) -> Iterator[dict[str, Any]]:
    """What was written, but for what a run was killed in."""
    for line in content.splitlines():
        with suppress(json.JSONDecodeError):
            yield json.loads(line)


def count_bad(folder: Path) -> int:
    """How many samples runs into a folder have skipped so far."""
    path = folder / BAD_SAMPLES
    return path.read_bytes().count(b"\n") if path.exists() else 0


def share(workers: int) -> Tensor:
    """Room for the notes of so many processes, by the one that starts them."""
    _notes.append(torch.zeros(workers, ROOM, dtype=torch.uint8).share_memory_())
    return _notes[-1]


def join(notes: Tensor, worker: int) -> None:
    """Called by a process that was started: from now on it notes what it reads."""
    global _own
    _own = notes[worker].numpy()


@contextmanager
def _noted(**facts: str) -> Iterator[None]:
    if _own is None:
        yield
        return
    text = json.dumps(facts | {"pid": os.getpid(), "since": time.monotonic()}).encode()
    if len(text) <= ROOM:
        _own[: len(text)] = np.frombuffer(text, np.uint8)
        _own[len(text) :] = 0
    try:
        yield
    finally:
        _own[:] = 0


@contextmanager
def surviving() -> Iterator[None]:
    """ValueError where a process of the DataLoader within dies, or none answers in SILENT seconds.
    What it read is added to the bad samples, as Fatal, and who still reads is killed: a process
    that is held up would hold up the end of this one."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader" not in str(error):
            raise
        said, reading = str(error).partition(". ")[0], _being_read()
        found = [facts for facts in reading if _lost(facts, str(error))]
        for facts in found:
            bad = BadSamples(Path(facts["bad"]), limit=math.inf)
            bad.add(facts["source"], facts["path"], Fatal(said), of=1)
        _kill([facts["pid"] for facts in reading])
        _notes.clear()
        names = ", ".join(facts["path"] for facts in found)
        why = "a file, the disk or store it lies on, or memory may be the cause"
        why = f"over {names}, which is left out from now on" if found else why
        raise ValueError(f"{said}: {why}; give the same command to go on") from error


def _kill(readers: list[int]) -> None:
    """End children of this process at once, deaf to what PyTorch raises wherever one is when a
    loader's child dies."""
    here = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if here else None
    for child in multiprocessing.active_children():
        if child.pid in readers:
            child.kill()
            child.join(10)
    if here:
        signal.signal(signal.SIGCHLD, before)


def _being_read() -> list[dict[str, Any]]:
    found = []
    for note in (note for notes in _notes for note in notes.numpy()):
        with suppress(ValueError):  # nothing, or what was being written
            found.append(json.loads(note.tobytes().rstrip(b"\0")))
    return found


def _lost(facts: dict[str, Any], said: str) -> bool:
    """Whether an error of the loader says that the process died which read this; or that none
    answers, and this has been read for most of the time."""
    named = re.search(r"DataLoader worker \(pid\(?s?\)? ([\d, ]+)\)", said)
    dead = [int(pid) for pid in re.findall(r"\d+", named[1])] if named else []
    late = "DataLoader timed out" in said and facts["since"] < time.monotonic() - SILENT / 2
    return facts["pid"] in dead or late
