"""The service over the tiny cascade: in this process, and as a program of its own."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from multiprocessing.process import BaseProcess
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient
from forked import command, fork

from imagen_video.cascade import Cascade
from imagen_video.web.desk import Desk
from imagen_video.web.jobs import Jobs
from imagen_video.web.server import application
from imagen_video.web.uploads import Limits


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keys are made there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMAGEN_VIDEO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_folder(tiny: Cascade, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def desk(tiny: Cascade, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    jobs = Jobs(tmp_path_factory.mktemp("service"))
    return Desk([tiny], jobs, limits=Limits(queue=3, body_bytes=2**20))


@pytest.fixture(scope="session")
def service(desk: Desk) -> Iterator[TestClient]:
    with TestClient(application(desk)) as client:
        yield client


@pytest.fixture
def client(service: TestClient, desk: Desk) -> Iterator[TestClient]:
    """Leaves no job behind."""
    yield service
    for job in service.get("/v1/videos", params={"limit": 100}).json()["data"]:
        service.delete(f"/v1/videos/{job['id']}")
    while desk.live:
        time.sleep(0.01)


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
