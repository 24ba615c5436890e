"""Debian's docker-registry for tests: a real registry of OCI artifacts, its blobs in a folder."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from common.digest import digest_hex
from tests.samples.identity.certificates import Pair
from tests.servers.balancers import free_address
from tests.servers.debian_programs import find_program

USER, PASSWORD = "ann", "sesame"
_HTPASSWD = f"{USER}:$2b$04$/586Wk9EliuQ6aso53BlZufB7PkQfn0yy2zoa5BFZdRNuu/bxjJqi\n"


class DockerRegistry:
    """Runs for as long as the test does; asks nobody who they are, and speaks no TLS, unless told so."""

    def __init__(self, folder: Path, *, asks: bool = False, tls: Pair | None = None, **auth: Any) -> None:
        """`asks` for a name and a password; `auth` is that section of its configuration."""
        program = find_program("usr/bin/docker-registry", "docker-registry", version="--version", required=True)
        folder.mkdir()
        self._folder = folder
        self.address = free_address()
        http: dict[str, Any] = {"addr": self.address, "secret": "shared"}
        if tls is not None:
            http["tls"] = {"certificate": str(tls.certificate), "key": str(tls.key)}
        if asks:
            (folder / "htpasswd").write_text(_HTPASSWD)
            auth = {"htpasswd": {"realm": "registry", "path": str(folder / "htpasswd")}}
        storage = {"filesystem": {"rootdirectory": str(folder / "blobs")}}
        config = {"version": "0.1", "storage": storage, "http": http, **({"auth": auth} if auth else {})}
        (folder / "config.yml").write_text(json.dumps(config))  # YAML too
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen((program, "serve", folder / "config.yml"), stdout=log, stderr=log)

    def __enter__(self) -> Self:
        host, port = self.address.split(":")
        while True:
            assert self._process.poll() is None, self._log.read_text()
            with suppress(ConnectionRefusedError):
                socket.create_connection((host, int(port))).close()
                return self
            time.sleep(0.02)

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def asked(self, method: str) -> int:
        """How many requests of this method it has answered."""
        return self._log.read_text().count(f'"{method} /v2/')

    def blob(self, digest: str) -> Path:
        """The file of a blob."""
        name = digest_hex(digest)
        return self._folder / "blobs/docker/registry/v2/blobs/sha256" / name[:2] / name / "data"
