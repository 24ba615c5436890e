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
ADDRESS, ADMIN = "127.0.0.1:50061", "127.0.0.1:50062"
KEPT = """
keep() { declare -p BUILD SINKSERVE_DATABASE_URL SINKSERVE_STORE_URL; declare -f call administer; }
trap 'keep >state 2>/dev/null || true' EXIT
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
        """The server of an example: its admin address, where it answers everything, and its process."""
        command = ("bash", "-c", f"source ./state\nexec {self._here(example.code)}")
        chosen = self.environment | environment
        with subprocess.Popen(
            command, cwd=self.folder, env=chosen, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            assert process.stdout is not None
            try:
                lines = [process.stdout.readline() for _ in range(2)]
                address, admin = (line.split()[-1] for line in lines)
                for said, line in zip(example.lines, lines, strict=False):
                    assert said.replace(ADDRESS, address).replace(ADMIN, admin).split() == line.split()
                self.replaced |= {ADDRESS: address, ADMIN: admin}
                yield admin, process.pid
                process.send_signal(signal.SIGTERM)
                assert process.wait(60) == 0
            finally:
                process.kill()

    def use(self) -> None:
        """From now on the builder that was started last is asked."""
        self.environment["SINKSERVE_CLIENT_BUILDER"] = self.replaced[ADDRESS]
        self.environment["SINKSERVE_CLIENT_BUILDER_ADMIN"] = self.replaced[ADMIN]

    def _here(self, code: str) -> str:
        for there, here in self.replaced.items():
            code = code.replace(there, here)
        return code
