"""A hub on this machine: what huggingface_hub asks of the real one to upload files, and no more."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import pytest

TOKEN = "hf_" + "t" * 30
LARGE = (".safetensors", ".gguf", "tokenizer.json", ".pt", ".pth", ".png")


@dataclass
class Repo:
    """A repository: branch -> path -> content, and every commit."""

    private: bool
    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {}})
    commits: list[tuple[str, str, list[str]]] = field(default_factory=list)

    @property
    def files(self) -> dict[str, bytes]:
        return self.branches["main"]


class Hub:
    """What the server knows, and how it behaves."""

    def __init__(self) -> None:
        self.user = "ada"
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        #: Requests by kind: `whoami`, `create`, `commit`, `PUT <oid>` ...
        self.asked: Counter[str] = Counter()
        #: Uploads of files with so many bytes or more are cut off in the middle.
        self.cuts_from: int | None = None
        #: Answered to every commit in the place of taking it.
        self.refuses_commits: tuple[int, str] | None = None
        #: Uploads wait for it.
        self.gate = threading.Event()
        self.gate.set()
        #: Set by the first upload that arrives.
        self.has_upload = threading.Event()
        self.url = ""


class RefusalError(Exception):
    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.code = status, code


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def _respond(self) -> None:
        try:
            answer = self._route()
            status, headers = 200, {}
        except RefusalError as refusal:
            answer, status = {"error": str(refusal)}, refusal.status
            headers = {"X-Error-Message": str(refusal)} | (
                {"X-Error-Code": refusal.code} if refusal.code else {}
            )
        if answer is None:
            return
        body = json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self._respond()

    def do_POST(self) -> None:
        self._respond()

    def do_PUT(self) -> None:
        self._respond()

    def _read(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            whole = b""
            while size := int(self.rfile.readline().strip(), 16):
                whole += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return whole
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _route(self) -> Any:
        parts = [unquote(part) for part in self.path.partition("?")[0].strip("/").split("/")]
        if self.command == "PUT":
            return self._take_object(parts[-1])
        body = self._read()
        if parts == ["api", "agent-harnesses"]:
            return {}
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.hub.asked["refused"] += 1
            raise RefusalError(401, "Invalid credentials in Authorization header")
        if parts[-4:] == ["info", "lfs", "objects", "batch"]:
            return self._batch(json.loads(body))
        match parts:
            case ["api", "whoami-v2"]:
                self.hub.asked["whoami"] += 1
                return {"name": self.hub.user, "type": "user"}
            case ["api", "validate-yaml"]:
                return {}
            case ["api", "repos", "create"]:
                return self._create(json.loads(body))
            case ["api", "models", owner, name, *rest]:
                return self._ask_repo(f"{owner}/{name}", rest, body)
        raise RefusalError(500, f"unexpected: {self.path}")

    def _create(self, wanted: dict[str, Any]) -> Any:
        owner = wanted["organization"] or self.hub.user
        name = f"{owner}/{wanted['name']}"
        if owner != self.hub.user:
            raise RefusalError(403, "You don't have the rights to create a model under the namespace")
        if name in self.hub.repos:
            raise RefusalError(409, "You already created this model repo")
        self.hub.asked["create"] += 1
        self.hub.repos[name] = Repo(private=wanted.get("visibility") == "private")
        return {"url": f"{self.hub.url}/{name}", "name": name}

    def _ask_repo(self, name: str, rest: list[str], body: bytes) -> Any:
        repo = self.hub.repos.get(name)
        if repo is None:
            raise RefusalError(404, "Repository not found", "RepoNotFound")
        match rest:
            case [] | ["revision", _]:
                branch = rest[1] if rest else "main"
                if branch not in repo.branches:
                    raise RefusalError(404, "Invalid rev id", "RevisionNotFound")
                siblings = [{"rfilename": path} for path in repo.branches[branch]]
                return {
                    "id": name,
                    "modelId": name,
                    "private": repo.private,
                    "siblings": siblings,
                    "sha": "0" * 40,
                }
            case ["branch", branch]:
                if branch in repo.branches:
                    raise RefusalError(409, "Reference already exists")
                repo.branches[branch] = dict(repo.files)
                return {}
            case ["preupload", branch]:
                return {"files": [self._describe(repo, branch, file) for file in json.loads(body)["files"]]}
            case ["commit", branch]:
                return self._commit(name, repo, branch, body)
        raise RefusalError(500, f"unexpected: {self.path}")

    def _describe(self, repo: Repo, branch: str, file: dict[str, Any]) -> dict[str, Any]:
        is_large = file["path"].endswith(LARGE)
        there = repo.branches[branch].get(file["path"])
        found: dict[str, Any] = {
            "path": file["path"],
            "uploadMode": "lfs" if is_large else "regular",
            "shouldIgnore": False,
        }
        if there is not None:
            blob = b"blob %d\0" % len(there) + there
            found["oid"] = hashlib.sha256(there).hexdigest() if is_large else hashlib.sha1(blob).hexdigest()
        return found

    def _batch(self, wanted: dict[str, Any]) -> Any:
        objects = []
        for one in wanted["objects"]:
            found = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in self.hub.objects:
                found["actions"] = {"upload": {"href": f"{self.hub.url}/objects/{one['oid']}", "header": {}}}
            objects.append(found)
        return {"transfer": "basic", "objects": objects}

    def _take_object(self, oid: str) -> Any:
        self.hub.asked[f"PUT {oid}"] += 1
        self.hub.has_upload.set()
        size = int(self.headers.get("Content-Length", 0))
        if self.hub.cuts_from is not None and size >= self.hub.cuts_from:
            self.rfile.read(size // 2)
            self.close_connection = True
            self.connection.shutdown(2)
            return None
        content = self._read()
        self.hub.gate.wait(300)
        assert hashlib.sha256(content).hexdigest() == oid
        self.hub.objects[oid] = content
        return {}

    def _commit(self, name: str, repo: Repo, branch: str, body: bytes) -> Any:
        if self.hub.refuses_commits:
            raise RefusalError(*self.hub.refuses_commits)
        self.hub.asked["commit"] += 1
        lines = [json.loads(line) for line in body.splitlines()]
        paths = []
        for line in lines[1:]:
            value = line["value"]
            paths.append(value["path"])
            if line["key"] == "lfsFile":
                repo.branches[branch][value["path"]] = self.hub.objects[value["oid"]]
            else:
                repo.branches[branch][value["path"]] = base64.b64decode(value["content"])
        repo.commits.append((branch, lines[0]["value"]["summary"], paths))
        number = f"{len(repo.commits):040x}"
        return {
            "commitUrl": f"{self.hub.url}/{name}/commit/{number}",
            "commitOid": number,
            "pullRequestUrl": None,
        }

    def log_message(self, *_: Any) -> None:
        """Nothing."""


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """Nothing: clients that go away are part of what is tried."""


def ask_hub(monkeypatch: pytest.MonkeyPatch, hub: Hub) -> None:
    """Lets huggingface_hub ask this hub, with its token, and wait no seconds between two tries."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    # Files go by HTTP: hf_xet has a storage of its own behind the hub
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)
    monkeypatch.setenv("HF_TOKEN", TOKEN)


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """A hub at `hub.url`, on this machine only."""
    hub = Hub()
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.gate.set()
        server.shutdown()
        server.server_close()
        thread.join()
