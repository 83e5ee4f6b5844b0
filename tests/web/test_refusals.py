"""What the HTTP API refuses, withholds and hides."""

import json
import time
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from serving import LONG, create, finished, refused, upload, working

from imagen_video.cascade import Cascade
from imagen_video.cli.serve import Serve, run_serve
from imagen_video.safety import Filters, Refusal
from imagen_video.sampling import save_video
from imagen_video.web import previews
from imagen_video.web.desk import Desk
from imagen_video.web.jobs import Jobs
from imagen_video.web.server import application
from imagen_video.web.uploads import Limits


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"size": "1280x720"}, "12x8, 24x16, 48x32, 96x64"),
        ({"seconds": "12"}, "1, 1.333"),
        ({"seconds": 4}, "1, 1.333"),
        ({"seconds": 10**400}, "seconds"),
        ({"seconds": True}, "seconds"),
        ({"prompt": "  "}, "prompt"),
        ({"prompt": "x" * 2001}, "2000"),
        ({"prompt": 3}, "prompt"),
        ({"model": "sora-2"}, "'tiny'"),
        ({"seed": -1}, "seed"),
        ({"steps": 0}, "steps"),
        ({"guidance": float("nan")}, "guidance"),
        ({"stages": {"ssr9": {"steps": 2}}}, "ssr9"),
        ({"stages": {"ssr3": {"guidance": 2}}}, "not guided"),
        ({"stages": {"base": {"step": 2}}}, "stages.base.step"),
        ({"negative_prompt": "a cat", "guidance": 0, "size": "12x8"}, "negative prompt"),
        ({"input_reference": "a.png"}, "input_reference"),
    ],
)
def test_what_cannot_be_made_is_refused_with_a_reason(client: TestClient, fields, words):
    body = json.dumps({"prompt": "a duck", **fields})
    assert words in refused(client.post("/v1/videos", content=body), 400)


@pytest.mark.parametrize("body", ["", "[1]", "nonsense", "[" * 100_000, '{"prompt": "\\ud800"}'])
def test_bodies_that_are_no_requests(client: TestClient, body: str):
    refused(client.post("/v1/videos", content=body), 400)


def test_a_full_queue_and_large_bodies(client: TestClient):
    working(client, client.post("/v1/videos", json=LONG).json()["id"])
    for _ in range(3):
        create(client)
    answer = client.post("/v1/videos", json={"prompt": "a duck"})
    assert "3 jobs are waiting" in refused(answer, 429) and answer.headers["retry-after"]
    huge = b"x" * (2**20 + 1)
    assert "bytes" in refused(client.post("/v1/videos", content=huge), 413)
    # Without saying how long it is.
    pieces = (huge[start : start + 2**16] for start in range(0, len(huge), 2**16))
    refused(client.post("/v1/videos", content=pieces), 413)


def test_uploads_that_are_refused(client: TestClient, desk: Desk, tmp_path: Path):
    before = set(desk.jobs.videos.iterdir())
    clip = torch.zeros(8, 3, 32, 48, dtype=torch.uint8)
    save_video(tmp_path / "good.mp4", clip, fps=0.1, metadata={})
    assert "60 s, this one 80.0 s" in refused(upload(client, tmp_path / "good.mp4"), 400)
    wrong = upload(client, tmp_path / "good.mp4", stages="base")
    assert "tsr1" in refused(wrong, 400)
    (tmp_path / "text").write_text("no video")
    # ffmpeg would open what it names.
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{tmp_path}/good.mp4\n"
    (tmp_path / "list.mp4").write_text(playlist)
    (tmp_path / "concat").write_text(f"ffconcat version 1.0\nfile {tmp_path}/good.mp4\n")
    coded = (tmp_path / "good.mp4").read_bytes().replace(b"avc1", b"zzzz")
    (tmp_path / "coded.mp4").write_bytes(coded)
    for name in ("text", "list.mp4", "concat", "coded.mp4"):
        assert "no video" in refused(upload(client, tmp_path / name), 400)
    assert "video must be a file" in refused(
        client.post("/v1/videos/upscale", data={"video": "/etc/passwd"}), 400
    )
    assert set(desk.jobs.videos.iterdir()) <= before  # of which some may be removed meanwhile


@pytest.mark.parametrize("comment", ["[" * 100_000, "9" * 5000, "a holiday"])
def test_what_others_wrote_into_a_video_does_not_matter(
    client: TestClient, tmp_path: Path, comment: str
):
    with av.open(tmp_path / "a.mp4", "w") as container:
        container.metadata["comment"] = comment
        stream = container.add_stream("h264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 24, 16, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((16, 24, 3), np.uint8), format="rgb24")
        container.mux([*stream.encode(frame), *stream.encode(None)])
    assert upload(client, tmp_path / "a.mp4").json()["size"] == "48x32"


def test_other_methods_and_addresses(client: TestClient):
    """In the API's words, beside a page at /."""
    answer = client.put("/v1/videos")
    assert "method" in refused(answer, 405) and answer.headers["allow"] == "GET, POST"
    for path in ("/v1/nope", "/v1/videos/a/b"):
        assert "no such address" in refused(client.get(path), 404)
    assert client.head("/health").status_code == 200


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"keep_days": float("nan")}, "keep-days must be above 0 and finite, got 100 and nan"),
        ({"keep_days": float("inf")}, "inf"),
        ({"disk_share": float("nan")}, "disk-share"),
        ({"port": 99999}, "port must be in 0..65535, got 99999"),
        ({"port": -1}, "got -1"),
        ({"api_key": ("schlüssel",)}, "plain ASCII"),
        ({"log_prompts": True, "safe": False}, "which are off"),
    ],
)
def test_what_cannot_be_served_with(options, words: str):
    """Before a model is loaded."""
    with pytest.raises(ValueError, match=words):
        run_serve(Serve(model="there is none", **options))


def test_the_jobs_of_another_model_are_left_alone(tiny: Cascade, desk: Desk, tmp_path: Path):
    Desk([tiny], Jobs(tmp_path), limits=Limits())
    Desk([tiny], Jobs(tmp_path), limits=Limits())
    spec = replace(tiny.spec, stages=tiny.spec.stages[:3])
    fewer = Cascade(spec, tiny.stages[:3], tiny.encoder)
    with pytest.raises(ValueError, match="jobs of a model with other stages"):
        Desk([fewer], Jobs(tmp_path), limits=Limits())


def test_an_upload_of_too_many_pixels(tiny: Cascade, tmp_path: Path):
    save_video(
        tmp_path / "a.mp4", torch.zeros(8, 3, 32, 48, dtype=torch.uint8), fps=8.0, metadata={}
    )
    desk = Desk([tiny], Jobs(tmp_path), limits=Limits(pixels=8 * 64 * 96 - 1))
    with TestClient(application(desk)) as client:
        assert "8 frames of 96x64" in refused(upload(client, tmp_path / "a.mp4"), 400)


@pytest.mark.parametrize("id", ["..", "%2e%2e%2fjobs.sqlite3", "video_" + "0" * 32, "a" * 5000])
def test_no_id_reaches_the_file_system(client: TestClient, id: str):
    for path in (f"/v1/videos/{id}", f"/v1/videos/{id}/content", f"/v1/videos/{id}/events"):
        assert client.get(path).status_code == 404
    assert client.delete(f"/v1/videos/{id}").status_code in (404, 405)


def test_content_before_it_is_there(client: TestClient):
    id = client.post("/v1/videos", json=LONG).json()["id"]
    assert "is not there" in refused(client.get(f"/v1/videos/{id}/content"), 409)
    answer = client.get(f"/v1/videos/{id}/content", params={"stage": "../jobs"})
    assert "finished: none yet" in refused(answer, 404)


def test_only_keys_let_in(tiny: Cascade, tmp_path: Path):
    desk = Desk([tiny], Jobs(tmp_path), limits=Limits())
    with TestClient(application(desk, keys=["first", "s3cond"])) as client:
        assert client.get("/health").status_code == 200
        for key in (None, "wrong", "firs", "first2", ""):
            headers = {} if key is None else {"Authorization": f"Bearer {key}"}
            for path in ("/v1/videos", "/v1/models", "/metrics", "/v1/videos/x"):
                assert "valid key" in refused(client.get(path, headers=headers), 401)
            refused(client.post("/v1/videos", content=b"[", headers=headers), 401)
        for key in ("first", "s3cond"):
            headers = {"Authorization": f"Bearer {key}"}
            assert client.get("/v1/videos", headers=headers).status_code == 200


def test_prompts_are_refused_and_videos_withheld(tiny: Cascade, tmp_path: Path):
    """With a reason, and no file is left of what is withheld."""

    def check(frames) -> Refusal | None:
        return Refusal("noise", "it is noise") if frames.shape[-1] == 96 else None

    def words(prompt: str) -> Refusal | None:
        return Refusal("birds", "no birds") if "duck" in prompt else None

    filters = Filters(prompt_checks=[words], frame_checks=[check])
    desk = Desk([tiny], Jobs(tmp_path), limits=Limits(), filters=filters)
    with TestClient(application(desk)) as client:
        answer = client.post("/v1/videos", json={"prompt": "a duck"})
        assert refused(answer, 400) == "the prompt is refused (birds): no birds"
        assert answer.json()["error"]["code"] == "birds"
        job = finished(client, create(client, prompt="a cat")["id"])
        assert job["status"] == "failed"
        assert job["error"] == {"code": "noise", "message": "it is noise"}
        assert job["stages"] == []
        deadline = time.monotonic() + 30
        while desk.jobs.folder(job["id"]).exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        refused(client.get(f"/v1/videos/{job['id']}/content"), 409)
        smaller = create(client, prompt="a cat", size="48x32")
        assert finished(client, smaller["id"])["status"] == "completed"
        text = client.get("/metrics").text
        assert 'refused_total{category="birds",what="prompt"} 1.0' in text
        assert 'refused_total{category="noise",what="video"} 1.0' in text


def test_what_can_be_read_is_not_shown_before_it_is_judged(
    tiny: Cascade, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("web.desk.READABLE", "safety.guard.READABLE"):
        monkeypatch.setattr(f"imagen_video.{name}", 32)
    monkeypatch.setattr("imagen_video.web.desk.PREVIEW", 0.0)
    shown: list[int] = []

    def animated(frames: torch.Tensor, *, seconds: float) -> bytes:
        shown.append(frames.shape[-2])
        return draw(frames, seconds=seconds)

    draw = previews.animated
    monkeypatch.setattr(previews, "animated", animated)

    def heights(verdict: Refusal | None) -> set[int]:
        """Of all that was shown, whether or not a client asked in time."""
        shown.clear()
        filters = Filters(prompt_checks=(), frame_checks=[lambda frames: verdict])
        folder = tmp_path / str(verdict)
        folder.mkdir()
        desk = Desk([tiny], Jobs(folder), limits=Limits(), filters=filters)
        with TestClient(application(desk)) as client:
            finished(client, create(client, size="48x32")["id"])
        return set(shown)

    assert heights(Refusal("noise", "it is noise")) == {8, 16}
    assert heights(None) == {8, 16, 32}
