"""Programs of Debian's packages, for tests: from the path, or unpacked once beside the Python packages.

Without them tests are skipped by name, or fail where SINKSERVE_TEST_BALANCERS_REQUIRED is set.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

import pytest

from tests.environment import users_environment

REQUIRED = "SINKSERVE_TEST_BALANCERS_REQUIRED"


def find_program(path: str, package: str, *, version: str, required: bool) -> Path:
    """A program such as `usr/sbin/nginx`, which answers to its option `version`; one that does not run is skipped."""
    name = Path(path).name
    if found := shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin"):
        return Path(found)
    folder = Path(sys.prefix) / package
    program = folder / path
    if not program.exists():
        _unpack(package, folder)
    if not program.exists() or subprocess.run((program, version), capture_output=True, check=False).returncode != 0:
        give_up(f"{name}: install {package}", required=required)
    return program


def give_up(what: str, *, required: bool = True) -> NoReturn:
    """Skip the test that needs `what`, or fail it where that has to be there."""
    if required and os.environ.get(REQUIRED):
        pytest.fail(f"no {what}")
    pytest.skip(f"no {what}")


def _unpack(name: str, folder: Path) -> None:
    """Debian's package, which another test run may be unpacking as well."""
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        return
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        here = Path(temporary)
        if not _downloads(name, here):
            _downloads(name, here, *_own_lists(here))
        for package in here.glob(f"{name}_*.deb"):
            subprocess.run(("dpkg", "-x", package, here / "made"), check=True)
            if not folder.exists():
                (here / "made").rename(folder)


def _downloads(name: str, folder: Path, *options: str) -> bool:
    command = ("apt-get", *options, "download", name)
    ran = subprocess.run(command, cwd=folder, env=users_environment(), capture_output=True, check=False)
    return ran.returncode == 0


def _own_lists(folder: Path) -> tuple[str, ...]:
    """Options for package lists as they are now, where the machine's are old or none."""
    for name in ("lists", "cache/archives"):
        (folder / name / "partial").mkdir(parents=True)
    options = ("-o", f"Dir::State::lists={folder / 'lists'}", "-o", f"Dir::Cache={folder / 'cache'}")
    subprocess.run(("apt-get", *options, "update"), env=users_environment(), capture_output=True, check=False)
    return options
