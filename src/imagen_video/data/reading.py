"""What the processes that load data are reading: a file that kills its reader is known by name.

A decoder may crash, take all memory or never end, and say nothing. So every reader writes what it
is about to read into memory that it shares with the process that started it.
"""

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Bytes for what one process reads: a path and a source.
ROOM = 16384
_notes: Tensor | None = None
_own: np.ndarray | None = None


def share(workers: int) -> Tensor:
    """Room for the notes of so many processes, by the one that starts them."""
    global _notes
    _notes = torch.zeros(workers, ROOM, dtype=torch.uint8).share_memory_()
    return _notes


def join(notes: Tensor, worker: int) -> None:
    """Called by a process that was started: from now on it notes what it reads."""
    global _own
    _own = notes[worker].numpy()


@contextmanager
def noted(**facts: str) -> Iterator[None]:
    """Whatever these facts name (`source` and `path`) is being read; should it kill this process
    it is added to the bad samples of the file `bad`."""
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
def surviving(silent: float) -> Iterator[None]:
    """ValueError where a process of the DataLoader within dies, or none answers in `silent`
    seconds. What it read is noted with the bad samples, so that others leave it out."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader" not in str(error):
            raise
        said, found = str(error).partition(". ")[0], _lost_to(error, silent)
        for facts in found:
            _blame(Path(facts["bad"]), facts["source"], facts["path"], said)
        names = ", ".join(facts["path"] for facts in found)
        why = "a file, the disk or store it lies on, or memory may be the cause"
        why = f"over {names}, which is left out from now on" if found else why
        raise ValueError(f"{said}: {why}; give the same command to go on") from error


def _blame(bad: Path, source: str, name: str, reason: str) -> None:
    line = {"source": source, "path": name, "reason": reason, "broken": True, "fatal": True}
    bad.parent.mkdir(parents=True, exist_ok=True)
    with open(bad, "ab") as file:
        file.write(json.dumps(line).encode() + b"\n")


def _lost_to(error: RuntimeError, silent: float) -> list[dict[str, Any]]:
    """What the processes read that an error of the loader says have died; or, where it says that
    none answers, what has been read for most of the `silent` seconds."""
    said, found = str(error), []
    named = re.search(r"DataLoader worker \(pid\(?s?\)? ([\d, ]+)\)", said)
    dead = [int(pid) for pid in re.findall(r"\d+", named[1])] if named else []
    late = time.monotonic() - silent / 2 if "DataLoader timed out" in said else 0.0
    for note in [] if _notes is None else _notes.numpy():
        with suppress(ValueError):  # nothing, or what was being written
            facts = json.loads(note.tobytes().rstrip(b"\0"))
            if facts["pid"] in dead or facts["since"] < late:
                found.append(facts)
    return found
