"""Runs both services in a child process, on free ports of this machine, while a context is open.

The child is `sinkserve serve`. It stops when its stdin ends, however this process ended, and lives in a session of its
own, so that Ctrl-C at the terminal is not for it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from builder_service.settings import BuilderSettings
from common.private import make_private_folder, open_private
from common.settings import SharedSettings
from sinkserve.cli.connection import PLAIN, given
from sinkserve.cli.terminal import console
from sinkserve.cli.terminal.failures import Failure

_LOG = "run.log"
_ENTRANCE = (
    *(f"SINKSERVE_TLS_{name}" for name in ("CERTIFICATE", "KEY", "CLIENT_CA")),
    *(f"SINKSERVE_AUTH_{name}" for name in ("ANONYMOUS", "KEYS", "JWKS", "POLICY")),
    *(f"SINKSERVE_{name}_PRINCIPAL_HEADER" for name in ("BUILDER", "RUNTIME")),
)
"""How others come in; here there are none."""
_PATIENCE_S = 60.0
_LOG_LINES = 5


@dataclass(frozen=True)
class Addresses:
    """Where the services listen, HOST:PORT."""

    builder: str
    runtime: str
    builder_admin: str
    runtime_admin: str


@contextmanager
def embedded_services(*roots: Path | str) -> Iterator[Addresses]:
    """Run both services while the context is open; the builder may read what is under `roots`, too.

    Raises Failure with their log.
    """
    home = SharedSettings.load().home.resolve()
    make_private_folder(home)
    log = home / _LOG
    with open(log, "ab", opener=open_private) as errors:
        start = errors.tell()
        child = _start(roots, errors.fileno())
    before = given.set(PLAIN)
    try:
        with (
            console.err.status("[dim]starting a builder and a runtime[/]") if console.err.is_terminal else nullcontext()
        ):
            addresses = _addresses(child, log, start)
        yield addresses
    finally:
        given.reset(before)
        _stop(child)


def _start(roots: Sequence[Path | str], errors: int) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "SINKSERVE_BUILDER_LISTEN": "127.0.0.1:0",
        "SINKSERVE_RUNTIME_LISTEN": "127.0.0.1:0",
        "SINKSERVE_BUILDER_ADMIN_LISTEN": "127.0.0.1:0",
        "SINKSERVE_RUNTIME_ADMIN_LISTEN": "127.0.0.1:0",
        "SINKSERVE_BUILDER_METRICS_LISTEN": "",
        "SINKSERVE_RUNTIME_METRICS_LISTEN": "",
        "SINKSERVE_BUILDER_SOURCE_ROOTS": _roots(roots),
        **dict.fromkeys(_ENTRANCE, ""),
    }
    return subprocess.Popen(
        # -P: the folder that a person stands in is no place to import from.
        [sys.executable, "-P", "-m", "sinkserve.cli", "serve", "--until-stdin-ends"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env=environment,
        text=True,
        start_new_session=True,
    )


def _roots(roots: Sequence[Path | str]) -> str:
    """The builder's source roots, and `roots`."""
    settings = BuilderSettings.load()
    more = (root.resolve() if isinstance(root, Path) else root for root in roots)
    return ",".join(map(str, (*settings.roots, *settings.remote.roots, *more)))


def _addresses(child: subprocess.Popen[str], log: Path, start: int) -> Addresses:
    assert child.stdout is not None
    try:
        return Addresses(**json.loads(child.stdout.readline()))
    except (ValueError, TypeError):
        _stop(child)
        said = log.read_bytes()[start:].decode(errors="replace").strip().splitlines()[-_LOG_LINES:]
        raise Failure(
            "\n".join(["the embedded services did not start", *said]), hint=f"all of it is in {log}"
        ) from None


def _stop(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.close()
    try:
        child.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    finally:
        child.stdout.close()
