"""A hub of Hugging Face on this machine, as far as huggingface_hub asks it for models; it can fail as that does."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

LFS_BYTES = 4096  # files this large are named by the sha256 of their bytes, as large ones are
_PATH = re.compile(
    r"/api/models/(?P<listed>[^/]+/[^/]+)(?:/(?:revision/(?P<revision>[^/]+)|tree/(?P<tree>[^/]+)))?"
    r"|/(?P<repository>[^/]+/[^/]+)/resolve/(?P<commit>[^/]+)/(?P<file>.+)"
)


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    token: str
    range: str


@dataclass
class FakeRepository:
    """Commits are files by name; branches name commits."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    token: str = ""
    """If there is one, nobody gets in without it."""
    gated: bool = False
    """Whether that is said to be a gate."""

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """A commit of these files; the branch moves to it."""
        told = json.dumps({name: hashlib.sha1(data).hexdigest() for name, data in files.items()}, sort_keys=True)
        commit = hashlib.sha1(f"{len(self.commits)} {told}".encode()).hexdigest()
        self.commits[commit], self.branches[branch] = files, commit
        return commit


@dataclass
class FakeHub:
    address: str
    repositories: dict[str, FakeRepository] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    """After how many bytes the next answers with large files break off."""
    status: int = 0
    """What every request is answered with, if it is not 0."""

    def repository(self, name: str = "org/model") -> FakeRepository:
        return self.repositories.setdefault(name, FakeRepository())

    def downloads(self) -> list[str]:
        """Names of the files whose bytes were asked for, in order."""
        return [
            request.path.rpartition("/")[2]
            for request in self.requests
            if request.method == "GET" and "/resolve/" in request.path
        ]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    hub = FakeHub(f"http://127.0.0.1:{server.server_address[1]}")
    server.hub = hub  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> FakeHub:
        return self.server.hub  # type: ignore[attr-defined,no-any-return]

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self.hub.requests.append(Request(self.command, path, token, self.headers.get("Range", "")))
        found = _PATH.fullmatch(urlsplit(self.path).path)
        if self.hub.status or found is None:
            return self._refuse(self.hub.status or 404)
        name = found["listed"] or found["repository"]
        name = self.hub.renamed.get(name, name)
        repository = self.hub.repositories.get(name, FakeRepository())
        commit = _commit(repository, unquote(found["revision"] or found["tree"] or found["commit"] or "main"))
        if why := _refusal(repository, token, commit, is_file=bool(found["repository"])):
            return self._refuse(*why)
        files = repository.commits[commit]
        if found["repository"]:
            return self._file(files, unquote(found["file"]), commit)
        return self._listing(name, files, commit, is_tree=bool(found["tree"]))

    def _listing(self, name: str, files: dict[str, bytes], commit: str, *, is_tree: bool) -> None:
        if is_tree:
            return self._json([{"type": "file", "path": file, **_described(data)} for file, data in files.items()])
        blobs = "blobs" in parse_qs(urlsplit(self.path).query)
        siblings = [{"rfilename": file, **(_described(data) if blobs else {})} for file, data in files.items()]
        return self._json({"id": name, "sha": commit, "siblings": siblings})

    def _file(self, files: dict[str, bytes], name: str, commit: str) -> None:
        return self._send(files[name], commit) if name in files else self._refuse(404, "EntryNotFound")

    def _send(self, data: bytes, commit: str) -> None:
        start = int((re.match(r"bytes=(\d+)-", self.headers.get("Range", "")) or [0, 0])[1])
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{_etag(data)}"')
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.hub.cuts and len(data) >= LFS_BYTES:
            self.wfile.write(data[start : start + self.hub.cuts.pop(0)])
            self.close_connection = True
            return
        self.wfile.write(data[start:])

    def _json(self, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, status: int, code: str = "") -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _commit(repository: FakeRepository, asked: str) -> str:
    """The commit of a branch, or that begins like this; empty if there is none."""
    return repository.branches.get(asked) or next((key for key in repository.commits if key.startswith(asked)), "")


def _refusal(repository: FakeRepository, token: str, commit: str, *, is_file: bool) -> tuple[int, str] | None:
    shut = repository.token not in ("", token)
    if not repository.commits or (shut and not repository.gated):
        return 401, "RepoNotFound"
    if shut and is_file:
        return 403, "GatedRepo"
    return None if commit else (404, "RevisionNotFound")


def _etag(data: bytes) -> str:
    if len(data) >= LFS_BYTES:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _described(data: bytes) -> dict[str, object]:
    described: dict[str, object] = {"size": len(data), "blobId": _etag(data), "oid": _etag(data)}
    if len(data) >= LFS_BYTES:
        described["lfs"] = {"sha256": _etag(data), "oid": _etag(data), "size": len(data), "pointerSize": 134}
    return described
