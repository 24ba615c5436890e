"""Workers that died: others notice, take up what they left, and give up what kills them."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from builder_service.queue.build import State
from builder_service.queue.capability import Capability
from builder_service.queue.queue import BuildQueue
from builder_service.queue.repository import BuildRepository
from builder_service.worker import worker
from common.catalog.blob_claims import claim_blobs
from common.spec.model_spec import ModelSpec, Source
from tests.fakes.scripted_builds import ScriptedBuilds


def _dead(builds: ScriptedBuilds) -> BuildQueue:
    """The queue of a process that has ended."""
    anything = Capability(folders=(Path("/"),))
    return BuildQueue(builds.database, f"{os.uname().nodename}/1/never:1", anything, lambda _: None, lambda _: False)


OTHER = "from common.db.processes import this_process; print(this_process(), flush=True); input()"


async def test_a_worker_notices_that_another_died(builds: ScriptedBuilds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "RECOVER_S", 0.0)
    pipe = asyncio.subprocess.PIPE
    other = await asyncio.create_subprocess_exec(sys.executable, "-c", OTHER, stdin=pipe, stdout=pipe)
    assert other.stdout is not None
    name = (await other.stdout.readline()).decode().strip()
    builds.script("built(MANIFEST)")
    spec = ModelSpec(name="demo", source=Source(uri="/m"))
    build_id = BuildRepository(builds.database, name).submit("local", spec).build_id
    assert BuildQueue(builds.database, name, Capability(), lambda _: None).lease_next() is not None
    await builds.start()
    other.kill()
    await other.wait()
    assert (await builds.until(build_id, State.SUCCEEDED)).attempt == 2


async def test_a_worker_takes_up_what_a_dead_one_left(builds: ScriptedBuilds) -> None:
    build_id = builds.submit()
    lease = _dead(builds).lease_next()
    assert lease is not None
    folder = builds.folder / "work" / lease.run
    folder.mkdir(parents=True)
    (folder / "weights.bin").write_bytes(b"half")
    (builds.folder / "work" / "another").mkdir()
    blob = builds.press.put(b"claimed by the dead")
    claim_blobs(builds.database, [blob], f"runs/{lease.run}")
    builds.script("built(MANIFEST)")
    await builds.start()
    build = await builds.until(build_id, State.SUCCEEDED)
    assert build.attempt == 2
    assert builds.leftovers() == []
    assert not builds.context.store.has(blob)


async def test_a_build_that_kills_its_builder_is_given_up(builds: ScriptedBuilds) -> None:
    build_id = builds.submit()
    dead = _dead(builds)
    for _ in range(3):
        assert dead.lease_next() is not None
        dead.requeue_lost()
    build = builds.get(build_id)
    assert build.state is State.FAILED
    assert build.failure is not None
    assert "died 3 times" in build.failure.message
