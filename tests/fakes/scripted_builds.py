"""A worker on a real database, whose children follow scripts instead of building."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from builder_service.queue.build import Build, State
from builder_service.queue.capability import Capability
from builder_service.queue.changes import Changes
from builder_service.queue.events import Logged
from builder_service.queue.queue import BuildQueue
from builder_service.queue.repository import BuildRepository
from builder_service.sources.uri import Remote
from builder_service.worker import child_process
from builder_service.worker.context import WorkerContext
from builder_service.worker.worker import Worker
from common.catalog.catalog import Catalog
from common.db.processes import this_process
from common.db.schema import open_database
from common.digest import digest_of
from common.spec.model_spec import ModelSpec, Source
from common.store.blob_store import open_store
from common.timeouts import STORE_TIMEOUT_S
from tests.samples.drafts import Press, draft

T = TypeVar("T")
KEY = digest_of(b"key")
PRELUDE = f"""
import json, os, signal, subprocess, sys, time
KEY = {KEY!r}
def send(kind, **fields): print(json.dumps(dict(kind=kind, **fields)), flush=True)
def told(): return json.loads(sys.stdin.readline())
def asks(kind, **fields): send(kind, **fields); return told()["go_on"]
def may_build(key=KEY): return asks("ask_key", build_key=key)
def built(manifest): send("built", manifest=manifest)
def say(text): send("log", text=text)
order = told()
MANIFEST = json.loads({draft(files={}, build_key=KEY).canonical().decode()!r})
MANIFEST.update(name=order["spec"]["name"], spec=order["spec"])
"""
HANG = "time.sleep(1000)"


class ScriptedBuilds:
    """Submit, start, look."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = tmp_path
        self._monkeypatch = monkeypatch
        self.database = open_database(f"sqlite:///{tmp_path / 'x.db'}")
        store = open_store(str(tmp_path / "store"))
        changes = Changes()
        self.builds = BuildRepository(self.database, this_process(), changes.notify)
        self.press = Press(self.database, store, tmp_path)
        self.context = WorkerContext(
            database=self.database,
            store=store,
            store_url=str(tmp_path / "store"),
            store_timeout_s=STORE_TIMEOUT_S,
            catalog=Catalog(self.database, store),
            queue=BuildQueue(self.database, this_process(), Capability(folders=(Path("/"),)), changes.notify),
            changes=changes,
            work=tmp_path / "work",
            source_roots=(tmp_path,),
            remote=Remote(),
            timeout_s=3600.0,
            memory_limit_mib=0,
        )
        self.workers: list[Worker] = []

    def script(self, body: str) -> None:
        """What the next children do."""
        path = self.folder / "child.py"
        path.write_text(PRELUDE + body)
        self._monkeypatch.setattr(child_process, "COMMAND", (sys.executable, str(path)))

    async def start(self, concurrency: int = 1) -> Worker:
        self.workers.append(Worker(self.context, concurrency))
        await self.workers[-1].start()
        return self.workers[-1]

    def submit(self, name: str = "demo") -> str:
        return self.builds.submit("local", ModelSpec(name=name, source=Source(uri="/m"))).build_id

    def get(self, build_id: str) -> Build:
        return self.builds.get("local", build_id)

    def log(self, build_id: str) -> list[str]:
        """The lines of a build."""
        lines: list[str] = []
        after = 0
        while events := self.builds.watch("local", build_id, after)[1]:
            lines += [stored.event.text for stored in events if isinstance(stored.event, Logged)]
            after = events[-1].sequence
        return lines

    async def until(self, build_id: str, *states: State) -> Build:
        return await until(lambda: self.get(build_id), lambda build: build.state in states)

    async def ended(self, body: str) -> Build:
        """The end of a build whose child follows `body`."""
        self.script(body)
        build_id = self.submit()
        await self.start()
        return await self.until(build_id, State.SUCCEEDED, State.FAILED, State.CANCELLED)

    async def logged(self, build_id: str, start: str) -> str:
        """The first line that begins with `start`."""
        lines = await until(lambda: [line for line in self.log(build_id) if line.startswith(start)], bool)
        return lines[0].removeprefix(start)

    def leftovers(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "work").iterdir())


async def until(look: Callable[[], T], enough: Callable[[T], bool]) -> T:
    """Look until it is enough."""
    while not enough(found := look()):  # noqa: ASYNC110 - what is awaited happens in other processes
        await asyncio.sleep(0.01)
    return found
