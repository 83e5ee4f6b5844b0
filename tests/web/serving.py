"""The service as a program of its own, and waiting for its jobs."""

import os
import signal
import socket
import time
from contextlib import closing
from multiprocessing.process import BaseProcess
from pathlib import Path

import httpx
from forked import command, fork


class Server:
    """`imagen-video serve` on a free port; what it says is in `said`.err."""

    def __init__(self, model: Path, data: Path, *words: str):
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            self.port = free.getsockname()[1]
        self.url, self.said = f"http://127.0.0.1:{self.port}", data.with_name(f"{data.name}-said")
        self._words = ["serve", "--model", str(model), "--data", str(data), *words]
        self._run: BaseProcess | None = None

    def start(self) -> None:
        (self._run,) = fork(command, *self._words, "--port", str(self.port), said=self.said)
        deadline = time.monotonic() + 120
        while True:
            try:
                assert httpx.get(f"{self.url}/health").json()["status"] == "ok"
                return
            except httpx.TransportError:
                errors = self.said.with_name(f"{self.said.name}.err")
                assert self._run.is_alive(), errors.read_text()
                assert time.monotonic() < deadline, errors.read_text()
                time.sleep(0.1)

    def end(self, how: signal.Signals) -> int | None:
        """Send a signal; the exit code."""
        assert self._run is not None and self._run.pid is not None
        os.kill(self._run.pid, how)
        self._run.join(60)
        return self._run.exitcode


def finished(client: httpx.Client, id: str, seconds: float = 120) -> dict:
    """A job when it is over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        job = client.get(f"/v1/videos/{id}").json()
        if job["status"] in ("completed", "failed"):
            return job
        time.sleep(0.1)
    raise AssertionError(job)
