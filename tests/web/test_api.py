"""The HTTP API in this process: what it makes, tells and removes."""

import base64
import json
import re
import sqlite3
import time
from io import BytesIO
from pathlib import Path

import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image
from serving import LONG, NAMES, create, events, finished, refused, upload, working

from imagen_video.cascade import Cascade
from imagen_video.sampling import SampleSpec, save_video
from imagen_video.video import read_video
from imagen_video.web.desk import Desk
from imagen_video.web.jobs import Jobs
from imagen_video.web.server import application
from imagen_video.web.uploads import Limits


def test_a_video_is_what_the_library_makes(client: TestClient, tiny: Cascade, tmp_path: Path):
    """With settings of its own, those of a stage before those of all."""
    job = create(client, seed=3, steps=1, stages={"base": {"steps": 2, "guidance": 0.5}})
    assert (job["status"], job["seconds"], job["size"]) == ("queued", "1.333", "96x64")
    done = finished(client, job["id"])
    assert done["status"] == "completed" and done["stages"] == NAMES
    answer = client.get(f"/v1/videos/{job['id']}/content")
    assert answer.headers["content-type"] == "video/mp4"
    head = client.head(f"/v1/videos/{job['id']}/content")
    assert head.headers["content-length"] == str(len(answer.content)) and not head.content
    (tmp_path / "got.mp4").write_bytes(answer.content)
    low = tiny(["a duck"], seed=3, steps=2, guidance=0.5, until="base").frames[0]
    steps = tiny.stream(["a duck"], SampleSpec(seed=3, steps=1, start="tsr1"), low=low)
    *_, last = steps
    assert last.video is not None
    save_video(tmp_path / "made.mp4", last.video, fps=24.0, metadata={})
    got, made = (read_video(tmp_path / name).frames for name in ("got.mp4", "made.mp4"))
    assert torch.equal(got, made)


def test_smaller_and_shorter_videos(client: TestClient, tmp_path: Path):
    job = create(client, size="48x32", seconds="1")
    assert finished(client, job["id"])["stages"] == NAMES[:-1]
    (tmp_path / "a.mp4").write_bytes(client.get(f"/v1/videos/{job['id']}/content").content)
    clip = read_video(tmp_path / "a.mp4")
    assert clip.frames.shape == (24, 3, 32, 48) and clip.fps == 24
    answer = client.get(f"/v1/videos/{job['id']}/content", params={"stage": "ssr1"})
    (tmp_path / "b.mp4").write_bytes(answer.content)
    assert read_video(tmp_path / "b.mp4").frames.shape[1:] == (3, 16, 24)
    for variant in ("thumbnail", "spritesheet"):
        answer = client.get(f"/v1/videos/{job['id']}/content", params={"variant": variant})
        assert Image.open(BytesIO(answer.content)).format == "WEBP"


def test_events_tell_of_every_stage_and_end(client: TestClient):
    told = events(client, create(client)["id"])
    names = [name for name, _ in told]
    assert names[-1] == "completed" and set(names[:-1]) <= {"progress", "preview"}
    progress = [facts["progress"] for name, facts in told if name == "progress"]
    assert progress == sorted(progress)
    images = [facts["image"] for name, facts in told if name == "preview"]
    picture = Image.open(BytesIO(base64.b64decode(images[0].partition(",")[2])))
    assert picture.format == "WEBP" and getattr(picture, "n_frames", 1) > 1
    assert events(client, told[-1][1]["id"]) == told[-1:]


def test_cancelling_and_deleting_end_a_job_within_a_step(client: TestClient, desk: Desk):
    for end in ("cancel", "delete"):
        job = client.post("/v1/videos", json=LONG).json()
        working(client, job["id"])
        facts = client.get(f"/v1/videos/{job['id']}").json()
        assert facts["status"] == "in_progress" and facts["eta_seconds"] > 0
        if end == "cancel":
            facts = client.post(f"/v1/videos/{job['id']}/cancel").json()
            assert (facts["status"], facts["error"]["code"]) == ("failed", "cancelled")
            assert "failed already" in refused(client.post(f"/v1/videos/{job['id']}/cancel"), 409)
        else:
            assert client.delete(f"/v1/videos/{job['id']}").json()["deleted"]
            refused(client.get(f"/v1/videos/{job['id']}"), 404)
        files, began = desk.jobs.folder(job["id"]), time.monotonic()
        # A worker has let go of a deleted job before it removes the files.
        while desk.live or (end == "delete" and files.exists()):
            time.sleep(0.01)
            assert time.monotonic() - began < 2
    assert finished(client, create(client)["id"])["status"] == "completed"


def test_a_waiting_job_can_be_cancelled(client: TestClient):
    first = client.post("/v1/videos", json=LONG).json()["id"]
    working(client, first)
    second = create(client)
    assert second["queued_before"] == 0
    assert client.post(f"/v1/videos/{second['id']}/cancel").json()["status"] == "failed"


def test_forms_are_read_as_objects(client: TestClient):
    form = {"prompt": "a duck", "seconds": "1", "stages[base][steps]": "1", "seed": "5"}
    job = client.post("/v1/videos", files={k: (None, v) for k, v in form.items()}).json()
    assert job["settings"]["stages"]["base"]["steps"] == 1 and job["seed"] == 5
    form = {"prompt": "a duck", "stages": '{"base": {"steps": 3}}'}
    job = client.post("/v1/videos", data=form).json()
    assert job["settings"]["stages"]["base"]["steps"] == 3


def test_a_repeated_key_is_one_job(client: TestClient):
    headers = {"Idempotency-Key": "one"}
    first = client.post("/v1/videos", json={"prompt": "a duck"}, headers=headers).json()
    again = client.post("/v1/videos", json={"prompt": "a duck"}, headers=headers).json()
    assert (first["id"], first["seed"]) == (again["id"], again["seed"])
    other = client.post("/v1/videos", json={"prompt": "a cat"}, headers=headers)
    assert "another request" in refused(other, 409)
    refused(client.post("/v1/videos", json={}, headers={"Idempotency-Key": "k" * 201}), 400)


def test_a_repeated_key_is_of_the_same_upload(client: TestClient, tmp_path: Path):
    headers, ids = {"Idempotency-Key": "two"}, []
    for name, light in (("a", 0), ("b", 200), ("a", 0)):
        clip = torch.full((2, 3, 16, 24), light, dtype=torch.uint8)
        save_video(tmp_path / f"{name}.mp4", clip, fps=8.0, metadata={})
        with open(tmp_path / f"{name}.mp4", "rb") as file:
            ids.append(client.post("/v1/videos/upscale", files={"video": file}, headers=headers))
    assert ids[0].json()["id"] == ids[2].json()["id"]
    assert "another request" in refused(ids[1], 409)


def test_lists_are_paged(client: TestClient):
    ids = [create(client, size="12x8")["id"] for _ in range(3)]
    first = client.get("/v1/videos", params={"limit": 2}).json()
    assert [job["id"] for job in first["data"]] == ids[:0:-1] and first["has_more"]
    oldest = {"after": first["last_id"], "limit": 1}
    assert client.get("/v1/videos", params=oldest).json()["data"][0]["id"] == ids[0]
    upwards = client.get("/v1/videos", params={"after": ids[0], "order": "asc"}).json()
    assert [job["id"] for job in upwards["data"]] == ids[1:] and not upwards["has_more"]
    for wrong in ({"limit": 0}, {"order": "up"}, {"after": "video_x"}):
        refused(client.get("/v1/videos", params=wrong), 400)


def test_an_upload_is_upscaled(client: TestClient, tmp_path: Path):
    clip = torch.randint(0, 255, (5, 3, 18, 26), dtype=torch.uint8)
    save_video(tmp_path / "in.mp4", clip, fps=10.0, metadata={})
    job = upload(client, tmp_path / "in.mp4", stages="tsr3, ssr3", prompt="noise").json()
    assert (job["kind"], job["size"], job["seconds"]) == ("upscale", "52x36", "0.5")
    assert finished(client, job["id"])["stages"] == ["tsr3", "ssr3"]
    (tmp_path / "out.mp4").write_bytes(client.get(f"/v1/videos/{job['id']}/content").content)
    made = read_video(tmp_path / "out.mp4")
    assert made.frames.shape == (10, 3, 36, 52) and made.fps == 20


def test_old_videos_go(tiny: Cascade, tmp_path: Path):
    desk = Desk([tiny], Jobs(tmp_path), limits=Limits(keep_days=1e-9))
    with TestClient(application(desk)) as client:
        id = create(client, size="12x8")["id"]
        deadline = time.monotonic() + 30
        while desk.jobs.get(id) or desk.jobs.folder(id).exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_videos_that_fill_too_much_of_the_disk_go(tiny: Cascade, tmp_path: Path):
    desk = Desk([tiny], Jobs(tmp_path), limits=Limits(disk_share=1e-18))
    with TestClient(application(desk)) as client:
        id = create(client, size="12x8")["id"]
        while client.get(f"/v1/videos/{id}").status_code == 200:
            time.sleep(0.05)


def test_a_failing_job_lets_the_next_one_through(
    tiny: Cascade, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A disk that is full, as far as the first job can tell."""
    left = [1]

    def full_once(*args, **options) -> None:
        if left:
            left.pop()
            raise OSError(28, "No space left on device")
        save_video(*args, **options)

    monkeypatch.setattr("imagen_video.web.maker.save_video", full_once)
    desk = Desk([tiny], Jobs(tmp_path), limits=Limits())
    with TestClient(application(desk)) as client:
        failed = finished(client, create(client, size="12x8")["id"])
        assert (failed["status"], failed["error"]["code"]) == ("failed", "server_error")
        assert finished(client, create(client, size="12x8")["id"])["status"] == "completed"


def test_a_worker_outlives_an_error_of_the_queue(
    client: TestClient, desk: Desk, monkeypatch: pytest.MonkeyPatch
):
    claim, left = desk.jobs.claim, [sqlite3.OperationalError("disk I/O error")]
    monkeypatch.setattr(desk.jobs, "claim", lambda: raised(left.pop()) if left else claim())
    assert finished(client, create(client, size="12x8")["id"])["status"] == "completed"
    assert not left


def raised(error: Exception):
    raise error


def test_metrics_count_stages_and_jobs(client: TestClient):

    def numbers() -> list[float]:
        """Finished jobs, base stages."""
        lines = client.get("/metrics").text.splitlines()
        assert "imagen_video_queue_length 0.0" in lines
        names = ('jobs_ended_total{status="completed"}', 'stage_seconds_count{stage="base"}')
        return [float(line.split()[1]) for n in names for line in lines if n in line]

    finished(client, create(client, size="12x8")["id"])
    before = numbers()
    finished(client, create(client, size="12x8")["id"])
    assert [after - then for after, then in zip(numbers(), before, strict=True)] == [1, 1]


def test_the_schema_names_every_route_and_error(client: TestClient):
    schema = client.get("/openapi.json").json()
    create = schema["paths"]["/v1/videos"]["post"]
    assert set(create["requestBody"]["content"]) == {"application/json", "multipart/form-data"}
    assert {"200", "400", "401", "409", "413", "429"} <= set(create["responses"])
    assert len(schema["paths"]) >= 9
    names = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(schema)))
    assert names == set(schema["components"]["schemas"])
