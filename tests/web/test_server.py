"""The service as a program: OpenAI's own client, killed and ended servers, a browser, a fuzzer."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from serving import Server, finished

from imagen_video.provenance import read_manifest
from imagen_video.video import read_video

LONG = {"tsr3": {"steps": 20}, "ssr3": {"steps": 20}}


@pytest.fixture(scope="module")
def server(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tiny_folder, tmp_path_factory.mktemp("service"), "--api-key", "s3cret")
    server.start()
    yield server
    assert server.end(signal.SIGTERM) == 0


@pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")
def test_the_openai_client(server: Server, tmp_path: Path):
    """Create, poll, list, download, delete."""
    import openai

    with openai.OpenAI(api_key="s3cret", base_url=f"{server.url}/v1", max_retries=0) as client:
        video = client.videos.create_and_poll(
            prompt="a duck",
            seconds="1",  # pyright: ignore[reportArgumentType]
            size="48x32",  # pyright: ignore[reportArgumentType]
            extra_body={"seed": 7, "stages": {"base": {"steps": 1}}},
            poll_interval_ms=100,
        )
        assert (video.status, video.progress, video.model_extra["seed"]) == ("completed", 100, 7)
        client.videos.download_content(video.id).write_to_file(tmp_path / "a.mp4")
        manifest = read_manifest(tmp_path / "a.mp4")
        assert (manifest.state, manifest.facts["seed"]) == ("valid", 7)
        assert b"a duck" not in (tmp_path / "a.mp4").read_bytes()
        assert read_video(tmp_path / "a.mp4").frames.shape == (24, 3, 32, 48)
        assert [found.id for found in client.videos.list(limit=1)] == [video.id]
        assert client.models.list().data[0].id == "tiny"
        with pytest.raises(openai.BadRequestError, match="12x8, 24x16, 48x32, 96x64"):
            client.videos.create(prompt="a duck", size="1280x720")
        with pytest.raises(openai.BadRequestError, match="the prompt is refused") as refused:
            client.videos.create(prompt="a naked woman")
        assert refused.value.code == "sexual"
        assert client.videos.delete(video.id).deleted
        with pytest.raises(openai.NotFoundError):
            client.videos.retrieve(video.id)
    with (
        openai.OpenAI(api_key="wrong", base_url=f"{server.url}/v1", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError, match="valid key"),
    ):
        stranger.videos.create(prompt="a duck")


def reached(client: httpx.Client, id: str, stage: str) -> None:
    """Wait until a stage is finished."""
    deadline = time.monotonic() + 60
    while stage not in client.get(f"/v1/videos/{id}").json()["stages"]:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_killed_server_goes_on_where_it_was(tiny_folder: Path, tmp_path: Path):
    """To the video that an undisturbed one makes; SIGTERM saves its place too, and exits 0."""
    server = Server(tiny_folder, tmp_path / "data")
    server.start()
    with httpx.Client(base_url=server.url) as client:
        prompt = f"a duck {'over the hills and the rivers ' * 6}to Aberystwyth"
        asked = {"prompt": prompt, "seed": 3, "stages": LONG}
        id, waiting = (client.post("/v1/videos", json=asked).json()["id"] for _ in range(2))
        reached(client, id, "tsr2")
        assert server.end(signal.SIGKILL) == -signal.SIGKILL
        server.start()
        facts = client.get(f"/v1/videos/{id}").json()
        assert facts["status"] in ("queued", "in_progress") and "tsr2" in facts["stages"]
        reached(client, id, "tsr3")
        with client.stream("GET", f"/v1/videos/{id}/events") as watched:
            heard = watched.iter_raw()
            first = next(heard)
            assert server.end(signal.SIGTERM) == 0
            assert b"event: progress" in first + b"".join(heard)  # and ends as it should
        server.start()
        jobs = [finished(client, one) for one in (id, waiting)]
        assert [job["status"] for job in jobs] == ["completed", "completed"]
        for name, job in zip("ab", jobs, strict=True):
            answer = client.get(f"/v1/videos/{job['id']}/content")
            (tmp_path / f"{name}.mp4").write_bytes(answer.content)
    assert server.end(signal.SIGTERM) == 0
    said = [path.read_text() for path in tmp_path.glob("data-said*")]
    assert said and not any("Aberystwyth" in text or "graceful" in text for text in said)
    first, second = (read_video(tmp_path / f"{name}.mp4").frames for name in "ab")
    assert torch.equal(first, second)


def test_one_server_a_folder(server: Server, tiny_folder: Path):
    data = server.said.with_name(server.said.name.removesuffix("-said"))
    other = Server(tiny_folder, data)
    other.said = data.with_name("other")
    with pytest.raises(AssertionError, match="another process works in"):
        other.start()


def test_a_browser_makes_a_video(tiny_folder: Path, tmp_path: Path):
    """From words to a playing video; refused words; the gallery; a phone; no outside address."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium: install your distribution's package")
    from playwright.sync_api import sync_playwright

    server = Server(tiny_folder, tmp_path / "data")
    server.start()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="dark")
        outside: list[str] = []
        page.on("request", lambda r: outside.append(r.url) if "://127" not in r.url else None)
        page.goto(server.url)
        page.get_by_label("Prompt", exact=True).press("Enter")
        page.locator("[role=alert]", has_text="what the video shows").wait_for()
        page.get_by_label("Prompt", exact=True).fill("a naked woman")
        page.get_by_role("button", name="Make the video").click()
        page.locator("[role=alert]", has_text="the prompt is refused (sexual)").wait_for()
        page.get_by_label("Prompt", exact=True).fill("a duck")
        page.get_by_role("button", name="Make the video").press("Enter")
        page.locator("progress").wait_for()
        page.locator(".screen video").wait_for()
        page.locator("[role=status]", has_text="Done: 96x64, 1.333 s").wait_for()
        page.wait_for_function("document.querySelector('.screen video').currentTime > 0.2")
        shape = "(v => [v.videoWidth, v.videoHeight])(document.querySelector('.screen video'))"
        assert page.evaluate(shape) == [96, 64]
        page.get_by_role("tab", name="Gallery").click()
        page.locator(".thumbnail-item").first.click()
        page.get_by_text("ssr3, 32x64x96@24").wait_for()
        assert page.locator(".stages video").count() == 7
        page.get_by_role("button", name="Again with another seed").click()
        page.locator("[role=status]", has_text="Done").wait_for()
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.screenshot(path=str(tmp_path / "phone.png"))
        browser.close()
    assert [url for url in outside if not url.startswith(("data:", "blob:"))] == []
    jobs = httpx.get(f"{server.url}/v1/videos").json()["data"]
    assert len({job["seed"] for job in jobs}) == len(jobs) == 2
    assert server.end(signal.SIGTERM) == 0


@pytest.mark.slow
def test_no_request_is_answered_with_a_server_error(server: Server):
    """From the server's own schema."""
    words = ["run", f"{server.url}/openapi.json", "--header", "Authorization: Bearer s3cret"]
    words += ["--checks", "not_a_server_error,response_schema_conformance", "--seed", "1"]
    words += ["--max-examples", "30", "--request-timeout", "60", "--exclude-path-regex", "gradio"]
    run = subprocess.run(
        [str(Path(sys.executable).with_name("schemathesis")), *words],
        capture_output=True,
        text=True,
        timeout=540,
    )
    assert run.returncode == 0, run.stdout
    errors = server.said.with_name(f"{server.said.name}.err").read_text()
    assert " 500 " not in errors
