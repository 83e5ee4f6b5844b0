"""A Hugging Face hub of one process on 127.0.0.1: what huggingface_hub asks of one to fetch a
snapshot and to push a folder, over sockets, with git's hashes and large files apart."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


class LocalHub(ThreadingHTTPServer):
    """`models` holds name -> commit -> path -> bytes, the last commit being main."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Answers)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.models: dict[str, dict[str, dict[str, bytes]]] = {}
        self.private: dict[str, Any] = {}
        self.large: dict[str, bytes] = {}
        self.tokens: set[str | None] = set()
        self.asked: list[str] = []
        self.open = True


@contextmanager
def local_hub() -> Iterator[LocalHub]:
    with LocalHub() as hub:
        thread = threading.Thread(target=hub.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


def _is_large(path: str) -> bool:
    return path.endswith(".safetensors")


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LocalHub

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b"".join(iter(self._chunk, b""))
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        if not self.server.open:
            return self._send(503, {"error": "closed"})
        for pattern, method in ROUTES.items():
            if match := re.fullmatch(pattern, path):
                return method(self, body, **match.groupdict())
        self._send(404, {"error": f"no route {path}"})

    def _chunk(self) -> bytes:
        data = self.rfile.read(int(self.rfile.readline(), 16))
        self.rfile.readline()
        return data

    def _send(self, status: int, answer: Any = None, **headers: str) -> None:
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _commit(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """A commit by name; otherwise the hub's own words for what is not there are sent."""
        commits = self.server.models.get(name)
        if commits is None:
            self._send(401, {"error": "no"}, X_Error_Code="RepoNotFound")
            return None
        sha = list(commits)[-1] if revision == "main" and commits else revision
        if sha not in commits:
            self._send(404, {"error": "no"}, X_Error_Code="RevisionNotFound")
            return None
        return sha, commits[sha]

    def info(self, _: bytes, name: str, revision: str) -> None:
        if found := self._commit(name, revision):
            siblings = [{"rfilename": path} for path in found[1]]
            self._send(200, {"id": name, "sha": found[0], "siblings": siblings})

    def tree(self, _: bytes, name: str, revision: str) -> None:
        if found := self._commit(name, revision):
            self._send(200, [_entry(path, data) for path, data in found[1].items()])

    def file(self, _: bytes, name: str, revision: str, path: str) -> None:
        if not (found := self._commit(name, revision)):
            return
        data = found[1][path]
        entry = _entry(path, data)
        tag = entry["lfs"]["oid"] if _is_large(path) else entry["oid"]
        self._send(200, data, ETag=f'"{tag}"', X_Repo_Commit=found[0])

    def create(self, body: bytes) -> None:
        token = self.headers.get("Authorization")
        self.server.tokens.add(token)
        if token == "Bearer nobody":
            return self._send(403, {"error": "not yours"})
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        self.server.private[name] = asked.get("visibility")
        self.server.models.setdefault(name, {})
        self._send(200, {"url": f"{self.server.url}/{name}"})

    def validate(self, body: bytes) -> None:
        front = json.loads(body)["content"].split("---")[1]
        known = "license: " in front and "pipeline_tag: text-to-video" in front
        self._send(*((200, {}) if known else (400, {"errors": [{"message": "no licence"}]})))

    def modes(self, body: bytes, name: str) -> None:
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if _is_large(file["path"]) else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(body)["files"]
        ]
        self._send(200, {"files": files})

    def batch(self, body: bytes, name: str) -> None:
        objects = [
            item | {"actions": {"upload": {"href": f"{self.server.url}/large/{item['oid']}"}}}
            for item in json.loads(body)["objects"]
        ]
        self._send(200, {"transfer": "basic", "objects": objects})

    def put(self, body: bytes, oid: str) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.large[oid] = body
        self._send(200, {})

    def commit(self, body: bytes, name: str) -> None:
        files = {}
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
        commits = self.server.models[name]
        sha = hashlib.sha1(f"{name}{len(commits)}".encode()).hexdigest()
        before = list(commits.values())[-1] if commits else {}
        commits[sha] = before | files
        url = f"{self.server.url}/{name}/commit/{sha}"
        self._send(200, {"commitUrl": url, "commitOid": sha, "success": True})


def _entry(path: str, data: bytes) -> dict[str, Any]:
    entry = {"type": "file", "path": path, "size": len(data)}
    entry["oid"] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    if _is_large(path):
        oid = hashlib.sha256(data).hexdigest()
        entry["lfs"] = {"oid": oid, "size": len(data), "pointerSize": 130}
    return entry


NAME = r"(?P<name>[\w.-]+/[\w.-]+)"
ROUTES = {
    f"/api/models/{NAME}/revision/(?P<revision>.+)": _Answers.info,
    f"/api/models/{NAME}/tree/(?P<revision>[^/]+)": _Answers.tree,
    f"/{NAME}/resolve/(?P<revision>[^/]+)/(?P<path>.+)": _Answers.file,
    "/api/repos/create": _Answers.create,
    "/api/validate-yaml": _Answers.validate,
    f"/api/models/{NAME}/preupload/main": _Answers.modes,
    rf"/{NAME}\.git/info/lfs/objects/batch": _Answers.batch,
    "/large/(?P<oid>[0-9a-f]{64})": _Answers.put,
    f"/api/models/{NAME}/commit/main": _Answers.commit,
}
