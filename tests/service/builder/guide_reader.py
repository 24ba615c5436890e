"""Somebody who follows docs/use/builder.md: runs its commands in one terminal, and its servers in another."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.pages.guide_page import Example

DEMO = Path(__file__).resolve().parents[3] / "demo"
ADDRESS = "127.0.0.1:50061"
KEPT = """
trap '{ declare -p BUILD SINKSERVE_DATABASE_URL SINKSERVE_STORE_URL; declare -f call; } >state 2>/dev/null || true' EXIT
set -eu
"""
"""What an example leaves for the next, as in one terminal."""


class Reader:
    """Somebody who types what the page says, in a folder with the demo."""

    def __init__(self, folder: Path) -> None:
        shutil.copytree(DEMO, folder / "demo")
        (folder / "state").touch()
        self.folder = folder
        self.replaced: dict[str, str] = {}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path, "SINKSERVE_BUILDER_LISTEN": "127.0.0.1:0"}
        self.environment |= {"SINKSERVE_HOME": str(folder / "home"), "COLUMNS": "300"}

    def run(self, example: Example) -> str:
        """What is printed to stdout and stderr."""
        script = f"source ./state\n{KEPT}\n{self._here(example.code)}"
        ran = subprocess.run(
            ("bash", "-c", script),
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert ran.returncode == example.status, ran.stdout
        return ran.stdout

    @contextmanager
    def serve(self, example: Example, **environment: str) -> Iterator[tuple[str, int]]:
        """The server of an example: its address and its process."""
        command = ("bash", "-c", f"source ./state\nexec {self._here(example.code)}")
        chosen = self.environment | environment
        with subprocess.Popen(
            command, cwd=self.folder, env=chosen, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            assert process.stdout is not None
            try:
                line = process.stdout.readline()
                address = line.split()[-1]
                for said in example.lines:
                    assert said.replace(ADDRESS, address).split() == line.split()
                yield address, process.pid
                process.send_signal(signal.SIGTERM)
                assert process.wait(60) == 0
            finally:
                process.kill()

    def use(self, address: str) -> None:
        """From now on it is this builder that is asked."""
        self.replaced[ADDRESS] = address
        self.environment["SINKSERVE_CLIENT_BUILDER"] = address

    def _here(self, code: str) -> str:
        for there, here in self.replaced.items():
            code = code.replace(there, here)
        return code
