"""A PostgreSQL of the tests' own, which may be stopped and started again while somebody uses it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

_USER = "nobody"


def find_tools() -> Path | None:
    """The folder of an installed initdb and pg_ctl."""
    found = shutil.which("initdb")
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    path = Path(found) if found else installed[-1] if installed else None
    return path.parent if path is not None else None


class OwnPostgres:
    """Started, in a folder of its own. It does not run as root: nobody may."""

    def __init__(self, tools: Path) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="sinkserve-postgres-"))
        # Not by `subprocess`'s own `user`: it forks, which gRPC's threads do not survive.
        self._as_somebody = ("runuser", "-u", _USER, "--") if os.getuid() == 0 else ()
        if self._as_somebody:
            shutil.chown(self._folder, _USER)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self._tools = tools
        self._run("initdb", "-U", "sinkserve", "--auth=trust", "--no-sync")
        self.start()

    @property
    def url(self) -> str:
        """Of a database for administrators."""
        return f"postgresql://sinkserve@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        """Serve, at the same address as ever."""
        options = f"-p {self._port} -k {self._folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self._run("pg_ctl", "-w", "-l", str(self._folder / "log"), "-o", options, "start")

    def stop(self) -> None:
        """End at once, whoever is connected."""
        self._run("pg_ctl", "-w", "-m", "immediate", "stop")

    def remove(self) -> None:
        """End, and leave nothing."""
        with suppress(subprocess.CalledProcessError):  # it has ended
            self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, tool: str, *arguments: str) -> None:
        command = [*self._as_somebody, str(self._tools / tool), "-D", str(self._folder / "data"), *arguments]
        subprocess.run(command, check=True, capture_output=True, cwd=self._folder)
