"""A browser without a window, and a folder of pages for it. Without one, tests are skipped by name, or fail where
SINKSERVE_TEST_BROWSER_REQUIRED is set.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

REQUIRED = "SINKSERVE_TEST_BROWSER_REQUIRED"
_SCRIPT = Path(__file__).resolve().parents[1] / "service" / "clients" / "node" / "page.mjs"
_PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as in the standard library
        """Requests are not logged."""


@contextmanager
def serving(folder: Path, port: int) -> Iterator[str]:
    """The origin at which the files of a folder are served."""
    server = ThreadingHTTPServer(("127.0.0.1", port), functools.partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.shutdown()
        server.server_close()


def browser_program() -> str:
    """The path of a browser. Skips without one."""
    program = next((found for name in _PROGRAMS if (found := shutil.which(name))), None)
    if program is None:
        (pytest.fail if os.environ.get(REQUIRED) else pytest.skip)("no browser: install chromium")
    return program


def shown(url: str, folder: Path) -> tuple[str, str]:
    """Title and log of the page at `url` once it is ready; `folder` has the packages. Skips without a browser."""
    program = browser_program()
    shutil.copy(_SCRIPT, folder)
    command = ("node", _SCRIPT.name, program, url)
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout)
    return said["title"], said["log"]
