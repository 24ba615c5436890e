"""Stores that hang or take long: no other session waits for them."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.service.replicas.pair.replicas import Replicas
from tests.service.runtime.runtime import eventually


async def test_a_store_that_hangs_holds_up_no_session_but_its_own(
    both: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    caches, answers = both.here.handle.shared.caches, threading.Event()
    keep = caches.snapshots.keep

    def hang(*values: Any) -> None:
        answers.wait()
        keep(*values)

    monkeypatch.setattr(caches.snapshots, "keep", hang)
    options = pb.SessionOptions(durability=pb.SessionOptions.DURABILITY_TOKENS_AND_KV)
    await (await both.here.opened(session_id="s", options=options)).said("1")
    await (await both.here.opened(session_id="t")).said("1")
    (live,) = (live for live in both.here.handle.sessions.live if live.session.session_id == "s")
    state = await live.export_cache()
    assert state is not None
    others = [
        asyncio.create_task(caches.store_snapshot(live.session, state)) for _ in range(40)
    ]  # more than any pool has
    moving = asyncio.create_task(both.there.resumed("sessions/s"))

    async def leaves() -> bool:
        return live.closed

    await eventually(leaves)
    await (await both.there.resumed("sessions/t")).said("2")
    assert not moving.done()
    answers.set()
    await (await moving).said("2")
    await asyncio.gather(*others)


async def test_a_store_that_takes_too_long_costs_a_snapshot_and_no_session(
    both: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime_service.turns.cache_tiers.MOST_S", 0.2)
    caches, answers = both.here.handle.shared.caches, threading.Event()
    keep = caches.snapshots.keep

    def hang(*values: Any) -> None:
        answers.wait()
        keep(*values)

    monkeypatch.setattr(caches.snapshots, "keep", hang)
    options = pb.SessionOptions(durability=pb.SessionOptions.DURABILITY_TOKENS_AND_KV)
    stream = await both.here.opened(session_id="s", options=options)
    await stream.said("1")
    moved = await both.there.resumed("sessions/s")
    await moved.said("2")
    answers.set()
    caches.threads.shutdown()  # waits for it: the session is another's by now
    (live,) = both.there.handle.sessions.live
    assert not both.there.handle.shared.caches.snapshots.has(live.session)
