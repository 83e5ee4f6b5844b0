"""Many clients and a server that is killed: every job finishes once, none is lost, none doubled.

    python bench/service.py --out out/load          # 100 jobs, 20 clients, 5 SIGKILLs; minutes

The server is `imagen-video serve` on the tiny cascade with random weights. Every client asks with a
key of its own for each job, and asks again when the server is gone, as a careful client does.
"""

import argparse
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx

from imagen_video import presets
from imagen_video.cascade import Cascade
from imagen_video.stage import Stage
from imagen_video.text.encoder import load_encoder
from imagen_video.video import read_video

DONE = re.compile(r"(video_\w+) completed")


class Server:
    """`imagen-video serve` over and over on one folder; `said` is all that it logged."""

    def __init__(self, out: Path):
        spec = presets.tiny()
        stages = [Stage(stage) for stage in spec.stages]
        Cascade(spec, stages, load_encoder(spec.text)).save_pretrained(out / "tiny")
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            port = free.getsockname()[1]
        self.url, self.said = f"http://127.0.0.1:{port}", out / "server.log"
        words = ["serve", "--model", out / "tiny", "--data", out / "data", "--port", port]
        words += ["--queue", 1000]
        self._words = [sys.executable, "-m", "imagen_video", *map(str, words)]
        self.start()

    def start(self) -> None:
        with self.said.open("a") as log:
            self._run = subprocess.Popen(self._words, stdout=log, stderr=log)
        self.wait()

    def wait(self) -> None:
        while True:
            try:
                httpx.get(f"{self.url}/health", timeout=10).raise_for_status()
                return
            except httpx.HTTPError:
                assert self._run.poll() is None, self.said.read_text()
                time.sleep(0.2)

    def kill(self, how: signal.Signals = signal.SIGKILL) -> int:
        self._run.send_signal(how)
        return self._run.wait()


def patient(client: httpx.Client, method: str, path: str, **options) -> httpx.Response:
    """A request that is asked again until the server answers."""
    while True:
        try:
            answer = client.request(method, path, timeout=30, **options)
            answer.raise_for_status()
            return answer
        except httpx.TransportError:
            time.sleep(0.2)


def client(url: str, name: int, count: int) -> list[str]:
    """Queue `count` jobs, one after the other, and wait for all; their ids."""
    with httpx.Client(base_url=url) as session:
        ids = []
        for i in range(count):
            key = {"Idempotency-Key": f"client {name}, job {i}"}
            asked = {"prompt": f"a duck for client {name}", "seed": i}
            answer = patient(session, "POST", "/v1/videos", json=asked, headers=key)
            ids.append(answer.json()["id"])
            time.sleep(random.random() / 10)
        for id in ids:
            while True:
                job = patient(session, "GET", f"/v1/videos/{id}").json()
                if job["status"] in ("completed", "failed"):
                    break
                time.sleep(0.5)
            assert job["status"] == "completed", job
    return ids


def check(server: Server, out: Path, ids: list[str]) -> None:
    """Every job has a readable video, was completed once, and there are no others."""
    assert len(set(ids)) == len(ids)
    with httpx.Client(base_url=server.url) as session:
        listed, after = [], {}
        while True:
            page = patient(session, "GET", "/v1/videos", params={"limit": 100, **after}).json()
            listed += [job["id"] for job in page["data"]]
            if not page["has_more"]:
                break
            after = {"after": page["last_id"]}
        assert sorted(listed) == sorted(ids), (len(listed), len(ids))
        for id in ids:
            (out / "a.mp4").write_bytes(patient(session, "GET", f"/v1/videos/{id}/content").content)
            assert read_video(out / "a.mp4").frames.shape == (32, 3, 64, 96)
    often = Counter(DONE.findall(server.said.read_text()))
    assert set(often) <= set(ids) and set(often.values()) == {1}, often.most_common(3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/load"))
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--kills", type=int, default=5)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=False)
    server, began = Server(options.out), time.monotonic()
    with ThreadPoolExecutor(options.clients) as pool:
        each = options.jobs // options.clients
        clients = [pool.submit(client, server.url, i, each) for i in range(options.clients)]
        kills = 0
        while kills < options.kills:
            time.sleep(random.uniform(3, 8))
            if all(one.done() for one in clients):
                break
            server.kill()
            kills += 1
            server.start()
        ids = [id for one in clients for id in one.result()]
    check(server, options.out, ids)
    seconds = time.monotonic() - began
    ended = server.kill(signal.SIGTERM)
    print(
        f"{len(ids)} jobs of {options.clients} clients, {kills} SIGKILLs: each completed once, "
        f"{seconds:.0f} s; SIGTERM at the end: exit code {ended}"
    )


if __name__ == "__main__":
    main()
