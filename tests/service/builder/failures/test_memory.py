"""Builds that get too little memory, for real: refused, failed or killed, with the figures."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from builder_service.machine.cgroup import ROOT
from sinkserve.client.errors import SinkServeError
from tests.samples.checkpoints import write_checkpoint
from tests.service.builder.builder import BuilderClient
from tests.service.builder.failures.causes import building, failed, linked


async def test_what_cannot_fit_is_refused_before_it_begins(large: Path, tmp_path: Path) -> None:
    async with building(tmp_path, linked(large, tmp_path), memory_limit_mib=400) as client:
        error = await failed(client)
        assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OUT_OF_MEMORY")
        assert error.metadata["stage"] == "PLAN"
        assert int(error.metadata["free_bytes"]) <= 400 * 2**20 < int(error.metadata["estimate_bytes"])
        tiny = write_checkpoint(tmp_path / "model", tokenizer=False)
        needed = await BuilderClient(client.builds, client.catalog, tiny).built()
        assert needed.engine == "demo@1", "what fits is built beneath the same limit"


def _no_more_memory(process: int) -> None:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    used = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))
    resource.prlimit(process, resource.RLIMIT_DATA, (used + 2**20, used + 2**20))


@pytest.mark.long
async def test_a_build_that_gets_no_more_memory_fails_alone_with_the_figures(
    busy: BuilderClient, client: BuilderClient
) -> None:
    error = await failed(busy, _no_more_memory)
    _check_memory(error)
    assert "ran out of memory" in error.message
    assert (await client.built()).engine == "demo@1", "the next one succeeds"


def _check_memory(error: SinkServeError) -> None:
    assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OUT_OF_MEMORY")
    figures = {name: int(error.metadata[f"{name}_bytes"]) for name in ("estimate", "peak", "limit")}
    assert min(figures.values()) > 2**20, figures
    assert error.metadata["stage"]
    for name, size in figures.items():
        assert f"{name} {size / 2**20:,.0f} MiB" in error.message


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group with room for 48 MiB, of either version."""
    limits = {"memory.max": 48 * 2**20, "memory.swap.max": 0}
    legacy = {"memory.limit_in_bytes": 48 * 2**20}
    for parent, files in ((ROOT, limits), (ROOT / "memory", legacy)):
        if (folder := _make_group(parent, files)) is not None:
            yield folder
            while (folder / "cgroup.procs").read_text():
                time.sleep(0.01)
            folder.rmdir()
            return
    pytest.skip("no memory control group can be made here")


def _make_group(parent: Path, files: dict[str, int]) -> Path | None:
    folder = parent / f"sinkserve-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError:
        return None
    if not (folder / next(iter(files))).exists():  # a folder like any other: nothing that limits is mounted here
        folder.rmdir()
        return None
    for name, size in files.items():
        if (folder / name).exists():
            (folder / name).write_text(str(size))
    return folder


@pytest.mark.long
async def test_a_build_that_the_kernel_killed_for_memory_says_so(
    busy: BuilderClient, client: BuilderClient, group: Path
) -> None:
    error = await failed(busy, lambda process: (group / "cgroup.procs").write_text(str(process)))
    _check_memory(error)
    assert "the kernel killed the build for want of memory" in error.message
    assert (await client.built()).engine == "demo@1", "the next one succeeds"
