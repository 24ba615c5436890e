"""Sessions that go from one replica to the other: what runs, what is known, who waits for whom."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import pytest

from common.errors import Reason, Unavailable
from runtime_service.domain.turn import Turn
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.service.replicas.pair.replicas import TAKEN_OVER, Replicas, history
from tests.service.runtime.runtime import ENDLESS, Stream, eventually, info, kinds


async def test_a_session_goes_on_where_it_is_opened_and_says_what_it_would_have_said(both: Replicas) -> None:
    alone = await both.here.said("one", "two", "three")
    stream = await both.here.opened(session_id="s")
    await stream.said("1", text="one")
    moved = await both.there.resumed("sessions/s")
    assert await stream.failure() == TAKEN_OVER
    await moved.said("2", text="two")
    back = await both.here.resumed("sessions/s")
    assert await moved.failure() == TAKEN_OVER
    assert await back.said("3", text="three") == alone
    assert await history(both.there, "sessions/s") == ["1", "2", "3"]


async def test_a_session_that_nobody_follows_is_handed_over_too(both: Replicas) -> None:
    stream = await both.here.opened(session_id="s")
    await stream.said("1")
    await stream.half_close()
    await stream.rest()
    moved = await both.there.resumed("sessions/s")
    await moved.said("2")
    assert not both.here.handle.sessions.live


async def test_a_turn_that_runs_stops_at_an_edge_and_starts_again_where_the_session_went(both: Replicas) -> None:
    stream = await both.here.opened(session_id="s")
    await stream.turn("1", generation=ENDLESS)
    await stream.first_delta()
    moved = await both.there.resumed("sessions/s", after_sequence=0)
    assert await stream.failure() == TAKEN_OVER
    started = (await moved.until("started"))[-1].started
    assert (started.turn_id, started.attempt) == ("1", 2)
    await moved.send(cancel=pb.CancelTurn(turn_id="1"))
    assert (await moved.finished()).reason == pb.FINISH_REASON_CANCELLED
    assert await history(both.here, "sessions/s") == ["1"]
    assert max(event.sequence for event in stream.events) < min(
        event.sequence for event in moved.events if event.sequence
    )


async def test_a_turn_is_known_wherever_it_is_sent_again(both: Replicas) -> None:
    stream = await both.here.opened(session_id="s")
    first = await stream.said("1")
    moved = await both.there.resumed("sessions/s")
    assert await moved.said("1") == first
    assert len(await history(both.there, "sessions/s")) == 1


async def test_a_turn_that_comes_while_its_session_leaves_is_told_why_it_was_not_taken(
    both: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = await both.here.opened(session_id="s")
    (live,) = both.here.handle.sessions.live
    repository, may_look = both.here.handle.shared.repository, threading.Event()
    find_turn = repository.find_turn

    def find_late(*names: Any) -> Turn | None:
        may_look.wait()
        return find_turn(*names)

    monkeypatch.setattr(repository, "find_turn", find_late)
    await stream.turn("1")
    moving = asyncio.create_task(both.there.resumed("sessions/s"))

    async def leaves() -> bool:
        return live.closed

    await eventually(leaves)
    may_look.set()
    assert info((await stream.rejected()).error).reason == "SESSION_TAKEN_OVER"
    assert await stream.failure() == TAKEN_OVER
    await (await moving).said("1")
    assert await history(both.there, "sessions/s") == ["1"]


@pytest.mark.parametrize("lost", [False, True])
async def test_a_turn_whose_end_is_being_kept_while_its_session_leaves_ended_or_runs_again_whole(
    both: Replicas, monkeypatch: pytest.MonkeyPatch, *, lost: bool
) -> None:
    monkeypatch.setattr("runtime_service.turns.session_state.TRIES", 1)
    alone = await both.here.said("one", "two")
    options = pb.SessionOptions(durability=pb.SessionOptions.DURABILITY_TOKENS_AND_KV)
    stream = await both.here.opened(session_id="s", options=options)
    live = both.here.handle.sessions.live[-1]
    repository, keeps, may_keep = both.here.handle.shared.repository, threading.Event(), threading.Event()
    finish_turn = repository.finish_turn

    def finish_late(*values: Any) -> None:
        keeps.set()
        may_keep.wait()
        if lost:
            raise Unavailable(Reason.DATABASE_UNAVAILABLE, "away")
        finish_turn(*values)

    monkeypatch.setattr(repository, "finish_turn", finish_late)
    await stream.turn("1", text="one")
    await asyncio.to_thread(keeps.wait)
    moving = asyncio.create_task(both.there.resumed("sessions/s"))

    async def leaves() -> bool:
        return live.closed

    await eventually(leaves)
    may_keep.set()
    moved = await moving
    of_any_position = replace(live.session, position=1000)
    assert both.there.handle.shared.caches.snapshots.has(of_any_position) is not lost
    await moved.turn("1", text="one")
    await moved.finished()
    turn = both.there.handle.shared.repository.find_turn(live.session.key, "1")
    assert turn is not None
    assert (turn.attempt, turn.stops) == ((2, 1) if lost else (1, 0))
    assert await moved.said("2", text="two") == alone


async def test_who_does_not_hand_over_and_says_that_it_is_alive_is_waited_for(
    both: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime_service.sessions.ownership.CLAIM_LEASES", 0.02)
    await both.here.opened(session_id="s")
    await both.pause(both.here)
    stream = both.there.stream()
    await stream.send(open=pb.Open(session="sessions/s"))
    assert await stream.failure() == (grpc.StatusCode.UNAVAILABLE, "SESSION_BUSY")


async def test_a_replica_that_drains_leaves_its_sessions_to_others_at_once(both: Replicas) -> None:
    stream = await both.here.opened(session_id="s")
    await stream.said("1")
    await both.here.handle.stop()
    assert "go_away" in kinds([event async for event in _left(stream)])
    both.here.runtime = None
    moved = await both.there.resumed("sessions/s")
    await moved.said("2")
    assert both.there.handle.shared.claims.alive() == {both.there.handle.shared.claims.replica}


async def _left(stream: Stream) -> AsyncIterator[pb.ConverseResponse]:
    """What was sent and not read yet."""
    try:
        while True:
            yield await stream.next()
    except (EOFError, grpc.aio.AioRpcError):
        return


async def test_many_streams_that_want_one_session_get_it_one_after_the_other(both: Replicas) -> None:
    stream = await both.here.opened(session_id="s")
    await stream.said("0")
    for number in range(1, 7):
        bench = (both.here, both.there)[number % 2]
        moved = await bench.resumed("sessions/s")
        await moved.said(str(number))
    assert await history(both.here, "sessions/s") == [str(number) for number in range(7)]
