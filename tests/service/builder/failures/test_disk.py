"""Builds that get too little room on disk, for real: named, and cleaned up."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import pytest

from sinkserve.client.errors import SinkServeError
from sinkserve.engine.v1.engine_pb2 import Source
from tests.service.builder.builder import BuilderClient
from tests.service.builder.failures.causes import building, failed, linked


def _no_more_disk(process: int) -> None:
    resource.prlimit(process, resource.RLIMIT_FSIZE, (2**20, 2**20))


@pytest.mark.long
async def test_a_file_that_may_not_grow_is_a_full_disk(
    busy: BuilderClient, client: BuilderClient, tmp_path: Path
) -> None:
    error = await failed(busy, _no_more_disk)
    _check_disk(error, tmp_path / "home" / "work")
    assert (await client.built()).engine == "demo@1", "the next one succeeds"


def _check_disk(error: SinkServeError, folder: Path) -> None:
    assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OUT_OF_DISK")
    assert error.metadata["path"].startswith(str(folder))
    assert int(error.metadata["needed_bytes"]) > 100 * 2**20
    assert str(folder) in error.message
    assert list(folder.iterdir()) == [], "nothing is left behind"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 400 MiB as the builder's home."""
    home = tmp_path / "home"
    home.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", str(home))
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("no disk can be mounted here")
    yield home
    subprocess.run(("umount", "--lazy", str(home)), check=True)


@pytest.mark.nightly
async def test_a_disk_that_others_fill_meanwhile_is_named_and_cleaned(
    large: Path, model: Path, tmp_path: Path, small_disk: Path
) -> None:
    async with building(tmp_path, linked(large, tmp_path)) as client:
        error = await failed(client, lambda _process: _fill(small_disk))
        _check_disk(error, small_disk / "work")
        (small_disk / "filler").unlink()
        built = await client.built(client.spec(source=Source(uri=str(model))))
        assert built.engine == "demo@1", "the next one succeeds"


def _fill(disk: Path) -> None:
    """Leave 8 MiB, which the database needs. What a build writes meanwhile may have taken the room that was seen."""
    with (disk / "filler").open("wb") as file:
        while True:
            with suppress(OSError):
                os.posix_fallocate(file.fileno(), 0, max(1, shutil.disk_usage(disk).free - 8 * 2**20))
                return


async def test_a_full_disk_is_named_before_anything_is_written(large: Path, tmp_path: Path, small_disk: Path) -> None:
    async with building(tmp_path, linked(large, tmp_path)) as client:
        _fill(small_disk)
        error = await failed(client)
    _check_disk(error, small_disk / "work")
    assert error.metadata["stage"] == "PLAN"
