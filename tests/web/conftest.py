"""The service over the tiny cascade: in this process, and as a program of its own."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from imagen_video.cascade import Cascade
from imagen_video.web.desk import Desk
from imagen_video.web.jobs import Jobs
from imagen_video.web.server import application
from imagen_video.web.uploads import Limits


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys are made there."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module", autouse=True)
def own_cache(cache: Path) -> Iterator[None]:
    """For these tests alone: others would draw every sticker again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMAGEN_VIDEO_CACHE", str(cache))
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
