"""The queue on disk: one SQLite database (WAL) of jobs, and a folder of files for each.

A job is queued, then in progress, then completed or failed, once: every change names the status
that it starts from, so of two that meet only one takes place.
"""

import json
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from imagen_video.files import replacing

Status = Literal["queued", "in_progress", "completed", "failed"]
# Times that a server may end while it makes the same stage, before the job is at fault.
TRIES = 10
SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    place INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    key TEXT UNIQUE,
    request TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'queued',
    stage TEXT,
    tries INTEGER NOT NULL DEFAULT 0,
    error TEXT,
    message TEXT,
    created REAL NOT NULL,
    completed REAL
);
CREATE INDEX IF NOT EXISTS jobs_status ON jobs (status, place);
"""


class Full(Exception):
    """The queue holds as many jobs as it may."""


class Taken(ValueError):
    """An idempotency key was used for another request."""


@dataclass(frozen=True)
class Job:
    """One row: `request` is what was asked for, `stage` the last one that is finished."""

    place: int
    id: str
    key: str | None
    request: dict[str, Any]
    status: Status
    stage: str | None
    tries: int
    error: str | None
    message: str | None
    created: float
    completed: float | None

    @property
    def over(self) -> bool:
        return self.status in ("completed", "failed")


def new_id() -> str:
    return f"video_{secrets.token_hex(16)}"


class Jobs:
    """All jobs under `root`; safe to call from any thread of one process."""

    def __init__(self, root: Path):
        self.videos = root / "videos"
        self.videos.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._db = sqlite3.connect(root / "jobs.sqlite3", check_same_thread=False)
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.executescript(SCHEMA)

    def belong_to(self, model: dict[str, Any]) -> None:
        """Keep what the jobs are made by; ValueError where those of before were made by another."""
        path, text = self.videos.parent / "model.json", json.dumps(model, indent=1) + "\n"
        if path.exists() and path.read_text() != text:
            raise ValueError(
                f"{self.videos.parent} has the jobs of a model with other stages ({path}): give "
                "another --data"
            )
        with replacing(path) as file:
            file.write_text(text)

    def close(self) -> None:
        self._db.close()

    def folder(self, id: str) -> Path:
        """Where the files of a job lie; `id` comes from a row, never from a request."""
        return self.videos / id

    def recover(self) -> None:
        """What an ended server left: jobs in progress wait again, at the place they had; files
        without a job are removed, and jobs that ended it too often fail."""
        with self._change() as db:
            db.execute(
                "UPDATE jobs SET status = 'failed', error = 'server_error', completed = ?,"
                " message = 'the server ended ' || tries || ' times while it made the same stage'"
                " WHERE status = 'in_progress' AND tries >= ?",
                (time.time(), TRIES),
            )
            db.execute("UPDATE jobs SET status = 'queued' WHERE status = 'in_progress'")
            known = {row["id"] for row in db.execute("SELECT id FROM jobs")}
        for folder in self.videos.iterdir():
            if folder.name not in known:
                shutil.rmtree(folder, ignore_errors=True)

    def add(self, id: str, request: dict[str, Any], *, most: int, key: str | None = None) -> Job:
        """Queue a request; with the `key` of an earlier one, that one's job.

        Raises Full where `most` wait already, and Taken for a key with another request.
        """
        with self._change() as db:
            before = self._rows("WHERE key = ?", key) if key else []
            if before:
                if before[0].request != request:
                    raise Taken("this idempotency key was used for another request")
                return before[0]
            if self.waiting() >= most:
                raise Full(f"{most} jobs are waiting already")
            db.execute(
                "INSERT INTO jobs (id, key, request, created) VALUES (?, ?, ?, ?)",
                (id, key, json.dumps(request), time.time()),
            )
            return self._rows("WHERE id = ?", id)[0]

    def get(self, id: str) -> Job | None:
        with self._lock:
            return next(iter(self._rows("WHERE id = ?", id)), None)

    def page(self, *, after: Job | None, limit: int, newest_first: bool = True) -> list[Job]:
        """The `limit` jobs next to `after`, in order of creation."""
        sign, order = ("<", "DESC") if newest_first else (">", "ASC")
        start = f"WHERE place {sign} ? " if after else "WHERE ? IS NULL "
        place = after.place if after else None
        with self._lock:
            return self._rows(f"{start} ORDER BY place {order} LIMIT ?", place, limit)

    def over(self) -> list[Job]:
        """All that are completed or failed, the oldest first."""
        with self._lock:
            return self._rows("WHERE status IN ('completed', 'failed') ORDER BY completed")

    def waiting(self, *, before: Job | None = None) -> int:
        """How many are queued, or are queued before one."""
        place = before.place if before else 2**62
        with self._lock:
            sql = "SELECT count(*) FROM jobs WHERE status = 'queued' AND place < ?"
            return self._db.execute(sql, (place,)).fetchone()[0]

    def claim(self) -> Job | None:
        """The job that has waited longest, now in progress."""
        with self._change() as db:
            found = self._rows("WHERE status = 'queued' ORDER BY place LIMIT 1")
            if not found:
                return None
            db.execute(
                "UPDATE jobs SET status = 'in_progress', tries = tries + 1 WHERE id = ?",
                (found[0].id,),
            )
            return self._rows("WHERE id = ?", found[0].id)[0]

    def release(self, id: str) -> None:
        """Put a job in progress back, without counting the try."""
        self._turn("status = 'queued', tries = tries - 1", id)

    def reach(self, id: str, stage: str) -> bool:
        """A stage is finished and its video is on disk; False if the job is gone."""
        return self._turn("stage = ?, tries = 0", id, stage)

    def complete(self, id: str) -> bool:
        """Once: False if the job is gone or was ended in another way."""
        return self._turn("status = 'completed', completed = ?", id, time.time())

    def fail(self, id: str, error: str, message: str) -> bool:
        """End a job that is not over; False if it is."""
        changes = "status = 'failed', error = ?, message = ?, completed = ?"
        values = (error, message, time.time())
        return self._turn(changes, id, *values, begins=("queued", "in_progress"))

    def withhold(self, id: str, category: str, reason: str) -> bool:
        """End a job in progress whose video is not to be seen, nor that of any stage."""
        changes = "status = 'failed', stage = NULL, error = ?, message = ?, completed = ?"
        return self._turn(changes, id, category, reason, time.time())

    def delete(self, id: str) -> None:
        """Remove the row; the files follow when nobody works on them."""
        with self._change() as db:
            db.execute("DELETE FROM jobs WHERE id = ?", (id,))

    def remove_files(self, id: str) -> None:
        shutil.rmtree(self.folder(id), ignore_errors=True)

    def _turn(
        self, changes: str, id: str, *values: Any, begins: Sequence[Status] = ("in_progress",)
    ) -> bool:
        """Change a job that is in one of these statuses; whether it was."""
        with self._change() as db:
            states = ", ".join("?" * len(begins))
            sql = f"UPDATE jobs SET {changes} WHERE id = ? AND status IN ({states})"
            return db.execute(sql, (*values, id, *begins)).rowcount == 1

    def _rows(self, rest: str, *values: Any) -> list[Job]:
        rows = self._db.execute(f"SELECT * FROM jobs {rest}", values)
        return [Job(**(dict(row) | {"request": json.loads(row["request"])})) for row in rows]

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it or nothing."""
        with self._lock, self._db:
            yield self._db
