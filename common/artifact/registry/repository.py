"""One artifact in a registry: its blobs come and go in pieces, and go on where they broke off.

Source: opencontainers/distribution-spec, 1.1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from urllib.parse import urljoin

from common.artifact.errors import NotAnEngine, NotInRegistry, RegistryNameError, RegistryRefused, RegistrySilent
from common.artifact.model_pack import OCI_MANIFEST, Layer
from common.artifact.registry.arriving import Arriving
from common.artifact.registry.link import Answer, RegistryLink
from common.digest import digest_of
from common.store.blob_store import BlobStore

_OCTETS = "application/octet-stream"
_REACHED = re.compile(r"(?:bytes=)?0-(\d+)")
_FRUITLESS = 2
"""Tries in a row that bring no byte further, before a blob is given up."""

Pieces = Callable[[int], Iterable[bytes]]
"""The bytes of a blob from an offset on."""


class _Patience:
    """For a blob that breaks off again and again: how far it ever came, and how often it came no further since."""

    def __init__(self, reached: int) -> None:
        self._furthest = reached
        self._fruitless = 0

    def ends_at(self, reached: int) -> bool:
        """Whether it is enough, after a try that ended here."""
        self._fruitless = 0 if reached > self._furthest else self._fruitless + 1
        self._furthest = max(self._furthest, reached)
        return self._fruitless == _FRUITLESS


class RegistryRepository:
    """What `link` leads to. All raise ArtifactError."""

    def __init__(self, link: RegistryLink) -> None:
        self._link = link
        self.name = link.name
        self.digest = ""
        """Of the artifact, once it is finished."""

    def add(self, data: bytes) -> str:
        """Send a small blob, unless it is there; returns its digest."""
        digest = digest_of(data)
        self._upload(digest, len(data), lambda start: [data[start:]])
        return digest

    def copy(self, store: BlobStore, layer: Layer) -> None:
        """Send a blob of a store, unless it is there. Raises what the store raises, too."""
        try:
            self._upload(layer.digest, layer.size_bytes, lambda start: store.pieces(layer.digest, start))
        except RegistryRefused:
            store.verify(layer.digest)  # if it is damaged here, that is what the registry saw
            raise

    def finish(self, artifact: bytes, tag: str) -> None:
        """Name the artifact, whose blobs are all there: as the link is called, else by `tag`."""
        self.name = replace(self.name, reference=self.name.reference or tag)
        self.digest = digest_of(artifact)
        where = self._link.url(f"manifests/{self.name.reference}")
        as_what = {"Content-Type": OCI_MANIFEST}
        self._link.call("PUT", where, f"{self.name}", right=(201,), body=lambda: artifact, headers=as_what)

    def artifact(self) -> bytes:
        """The artifact of the name. Raises NotAnEngine if it is not what its digest says."""
        name = self.name
        if not name.reference:
            raise RegistryNameError(f"{name} names no tag", hint=f"such as {name}:3")
        where = self._link.url(f"manifests/{name.reference}")
        answer = self._link.call("GET", where, str(name), right=(200,), headers={"Accept": OCI_MANIFEST})
        told = answer.headers.get("Docker-Content-Digest", "")
        for digest in filter(None, (name.reference if name.is_pinned else "", told)):
            if digest_of(answer.body) != digest:
                raise NotAnEngine(f"what the registry sent of {name} is not {digest}")
        return answer.body

    def fetch(self, digest: str, size_bytes: int, path: Path) -> None:
        """Get a blob of `size_bytes` into a file that does not exist yet; one that broke off goes on.

        Raises NotAnEngine for a blob that is not what its digest says, and OSError if it cannot be written.
        """
        with Arriving(path) as arriving:
            patience = _Patience(arriving.size_bytes)
            while arriving.size_bytes < size_bytes:
                try:
                    self._get(digest, size_bytes, arriving)
                except RegistrySilent:
                    if patience.ends_at(arriving.size_bytes):
                        raise
            arriving.finish(digest)

    def _get(self, digest: str, size_bytes: int, arriving: Arriving) -> None:
        """Once."""
        rest = {"Range": f"bytes={arriving.size_bytes}-"} if arriving.size_bytes else {}
        with self._link.open("GET", self._link.url(f"blobs/{digest}"), headers=rest) as response:
            goes_on = response.headers.get("Content-Range", "").startswith(f"bytes {arriving.size_bytes}-")
            if response.status_code not in {200, 206, 416}:
                raise self._link.refuse(response, digest)
            if response.status_code != 206 or not goes_on:
                arriving.restart()
            if response.status_code != 416:
                arriving.take(response.iter_raw(), digest, size_bytes)
        if arriving.size_bytes < size_bytes:
            raise RegistrySilent(f"{digest} ended after {arriving.size_bytes} of {size_bytes} bytes")

    def _upload(self, digest: str, size_bytes: int, pieces: Pieces) -> None:
        if self._has(digest):
            return
        where, sent = self._begin(digest)
        patience = _Patience(sent)
        while sent < size_bytes:
            try:
                where, sent = self._send(where, digest, sent, size_bytes, pieces), size_bytes
            except RegistrySilent:
                where, sent = self._reached(where, digest)
                if patience.ends_at(sent):
                    raise
        done = f"{where}{'&' if '?' in where else '?'}digest={digest}"
        try:
            self._link.call("PUT", done, digest, right=(201,), headers={"Content-Type": _OCTETS})
        except NotInRegistry:  # or it is done, and only the answer was lost
            if not self._has(digest):
                raise

    def _has(self, digest: str) -> bool:
        return self._link.call("HEAD", self._link.url(f"blobs/{digest}"), digest, right=(200, 404)).status == 200

    def _begin(self, digest: str) -> tuple[str, int]:
        """Where a blob is sent to, and how much of it is there: nothing."""
        return self._next(self._link.call("POST", self._link.url("blobs/uploads/"), digest, right=(202,)), digest), 0

    def _send(self, where: str, digest: str, sent: int, size_bytes: int, pieces: Pieces) -> str:
        """Send the rest, once, as one piece: some registries take no more than one. Returns where it ends."""
        headers = {
            "Content-Type": _OCTETS,
            "Content-Length": str(size_bytes - sent),
            "Content-Range": f"{sent}-{size_bytes - 1}",
        }
        with self._link.open("PATCH", where, lambda: pieces(sent), headers) as response:
            if response.status_code != 202:
                raise self._link.refuse(response, digest)
            return self._next(Answer(response.status_code, response.headers, b""), digest)

    def _reached(self, where: str, digest: str) -> tuple[str, int]:
        """Where the rest is sent to, and how much is there; from the beginning, where the registry does not say."""
        try:
            answer = self._link.call("GET", where, digest, right=(204,))
        except (NotInRegistry, RegistryRefused):
            return self._begin(digest)
        found = _REACHED.fullmatch(answer.headers.get("Range", ""))
        return self._next(answer, digest), int(found[1]) + 1 if found and found[1] != "0" else 0

    def _next(self, answer: Answer, digest: str) -> str:
        location = answer.headers.get("Location", "")
        if not location:
            raise RegistryRefused(f"the registry {self._link.name.host} does not say where {digest} is sent to")
        return urljoin(self._link.url(""), location)
