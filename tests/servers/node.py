"""A client in Node for tests, and other packages for it: installed once for a lock file, beside the Python packages.

Without `node` and `npm`, tests that need them are skipped by name, or fail where SINKSERVE_TEST_NODE_REQUIRED is set.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.environment import users_environment

REQUIRED = "SINKSERVE_TEST_NODE_REQUIRED"
PROTOS = Path(__file__).resolve().parents[2] / "protos"
_CLIENT = Path(__file__).resolve().parents[1] / "service" / "clients" / "node"
_PACKAGES = ("package.json", "package-lock.json")


@dataclass(frozen=True)
class NodeClient:
    """`folder` holds client.mjs and the packages that it needs."""

    folder: Path

    @classmethod
    def install(cls, folder: Path) -> NodeClient:
        """Make `folder` one that the client runs in; skips the test where there is no Node."""
        for file in _CLIENT.glob("*.mjs"):
            shutil.copy(file, folder)
        shutil.copy(_CLIENT / "package.json", folder)
        link_packages(folder)
        return cls(folder)

    async def sees(self, address: str, scenario: str, **arguments: Any) -> Any:
        """What the client saw in a scenario on the server at `address`."""
        async with self.running(address, scenario, **arguments) as process:
            return await seen(process)

    @asynccontextmanager
    async def running(self, address: str, scenario: str, **arguments: Any) -> AsyncIterator[asyncio.subprocess.Process]:
        """The client in a scenario; ended at the end, whatever it does."""
        process = await asyncio.create_subprocess_exec(
            *("node", "client.mjs", str(PROTOS), address, scenario, json.dumps(arguments)),
            cwd=self.folder,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


def link_packages(folder: Path, of: Path = _CLIENT) -> None:
    """Give a folder `node_modules`, as the lock file in `of` says; skips the test where there is no Node."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            give_up = pytest.fail if os.environ.get(REQUIRED) else pytest.skip
            give_up(f"{program} is not installed")
    (folder / "node_modules").symlink_to(_packages(of) / "node_modules")


async def seen(process: asyncio.subprocess.Process) -> Any:
    """What a client prints at its end."""
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return json.loads(out)


def _packages(of: Path) -> Path:
    """A folder with the packages of a lock file, which another test run may be installing as well."""
    lock = (of / "package-lock.json").read_bytes()
    folder = Path(sys.prefix) / "node" / hashlib.sha256(lock).hexdigest()[:16]
    if folder.exists():
        return folder
    folder.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        made = Path(temporary) / "made"
        made.mkdir()
        for name in _PACKAGES:
            shutil.copy(of / name, made)
        install = ("npm", "ci", "--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund")
        environment = users_environment()
        ran = subprocess.run(install, cwd=made, env=environment, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        if not folder.exists():
            made.rename(folder)
    return folder
