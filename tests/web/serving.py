"""The service as a program of its own, and what tests ask of it."""

import json
import os
import signal
import socket
import time
from contextlib import closing
from multiprocessing.process import BaseProcess
from pathlib import Path

import httpx
from fastapi.testclient import TestClient
from forked import command, fork

NAMES = ["base", "tsr1", "ssr1", "ssr2", "tsr2", "tsr3", "ssr3"]
LONG = {"prompt": "a duck", "stages": {"base": {"steps": 256}, "tsr1": {"steps": 256}}}


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
        with httpx.Client() as client:
            while True:
                try:
                    assert client.get(f"{self.url}/health").json()["status"] == "ok"
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


def create(client: TestClient, **fields) -> dict:
    answer = client.post("/v1/videos", json={"prompt": "a duck", **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(answer, status: int) -> str:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error["message"]


def upload(client: TestClient, path: Path, **fields: str):
    with open(path, "rb") as file:
        return client.post("/v1/videos/upscale", files={"video": file}, data=fields)


def working(client: TestClient, id: str) -> None:
    """Wait until a worker is at a job."""
    while client.get(f"/v1/videos/{id}").json()["step"] < 1:
        time.sleep(0.02)


def events(client: TestClient, id: str) -> list[tuple[str, dict]]:
    found = []
    with client.stream("GET", f"/v1/videos/{id}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for part in "".join(answer.iter_text()).split("\n\n"):
            if part.startswith("event: "):
                name, data = part.removeprefix("event: ").split("\ndata: ")
                found.append((name, json.loads(data)))
    return found
