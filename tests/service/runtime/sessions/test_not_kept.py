"""Sessions of which nothing is kept: as good as others while their server lives, and gone with it without a trace."""

from __future__ import annotations

import sqlite3
from typing import Any

import grpc
import pytest

from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.service.runtime.runtime import ENDLESS, Bench, eventually, reason_of

NONE = pb.SessionOptions(durability=pb.SessionOptions.DURABILITY_NONE)
SECRET = "the secret of the vault"
NOT_KEPT = (grpc.StatusCode.FAILED_PRECONDITION, "SESSION_NOT_KEPT")
NOT_FOUND = (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")


async def _refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), reason_of(caught.value)


async def test_it_says_what_any_session_says_also_when_its_cache_was_lost(bench: Bench) -> None:
    texts = [f"turn {number}" for number in range(30)]  # far past the window
    expected = await bench.said(*texts)
    await bench.restart(parked_bytes=0)
    stream = await bench.opened(options=NONE)
    for number, text in enumerate(texts[:-1]):
        await stream.said(str(number), text)
    for _ in range(4):  # others take all slots
        await bench.said("hello")
    assert await stream.said("last", texts[-1]) == expected
    moves = bench.handle.engines.loaded[0].thread.scheduler.moves
    assert (moves.spilled > 0, moves.replayed > 0) == (True, True), "others may go to the disk"
    assert not bench.handle.shared.caches.files.has(0)


async def test_nothing_that_is_said_reaches_the_disk(bench: Bench) -> None:
    stream = await bench.opened(session_id="s", options=NONE, system_prompt=SECRET)
    await stream.said("1", SECRET)
    await stream.half_close()
    await stream.rest()
    with sqlite3.connect(bench.home / "sinkserve.db") as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = {name: database.execute(f"SELECT * FROM {name}").fetchall() for name in tables}
    assert rows["turns"] == []
    assert len(rows["sessions"]) == 1
    assert SECRET not in repr(rows)
    found = (await bench.stub.GetSession(pb.GetSessionRequest(name="sessions/s"))).session
    assert (found.turns, found.position > 0) == (1, True)


async def test_its_turns_are_listed_and_known_again_while_it_lives(bench: Bench) -> None:
    stream = await bench.opened(session_id="s", options=NONE)
    first = await stream.said("1", "one")
    again = await bench.resumed("sessions/s")
    assert await again.said("1", "one") == first
    await again.turn("1", text="other")
    assert (await again.rejected()).turn_id == "1"
    listed = await bench.stub.ListTurns(pb.ListTurnsRequest(session="sessions/s"))
    assert [turn.turn_id for turn in listed.turns] == ["1"]


async def test_it_ends_with_its_server_in_good_order(bench: Bench) -> None:
    stream = await bench.opened(session_id="s", options=NONE)
    await stream.said("1", "one")
    await bench.restart()
    assert await _refused(bench.stub.GetSession(pb.GetSessionRequest(name="sessions/s"))) == NOT_FOUND


async def test_it_ends_with_a_server_that_died(bench: Bench) -> None:
    """Another server finds its row, and nothing to go on from."""
    for name in ("opened", "left"):
        await bench.opened(session_id=name, options=NONE)
    other = Bench(bench.home, {"reap_s": 0.1})
    await other.start()
    alive = other.handle.shared.claims
    try:
        died = bench.handle.shared.claims.replica
        alive._is_alive = lambda replica: replica != died
        stream = other.stream()
        await stream.send(open=pb.Open(session="sessions/opened"))
        assert await stream.failure() == NOT_FOUND
        alive.set_missing_expiries()

        async def gone() -> bool:
            try:
                await other.stub.GetSession(pb.GetSessionRequest(name="sessions/left"))
            except grpc.aio.AioRpcError as error:
                return error.code() is grpc.StatusCode.NOT_FOUND
            return False

        await eventually(gone)
    finally:
        await other.stop()


async def test_it_stays_where_it_is_and_goes_only_forward(bench: Bench) -> None:
    stream = await bench.opened(session_id="s", options=NONE)
    await stream.said("1", "one")
    assert await _refused(bench.stub.ForkSession(pb.ForkSessionRequest(name="sessions/s"))) == NOT_KEPT
    rewind = pb.RewindSessionRequest(name="sessions/s", turn_id="1")
    assert await _refused(bench.stub.RewindSession(rewind)) == NOT_KEPT
    other = Bench(bench.home, {})
    await other.start()
    try:
        elsewhere = other.stream()
        await elsewhere.send(open=pb.Open(session="sessions/s"))
        assert await elsewhere.failure() == NOT_KEPT
    finally:
        await other.stop()
    await stream.said("2", "two")


async def test_it_makes_no_room_for_others(bench: Bench) -> None:
    await bench.restart(max_sessions=1)
    stream = await bench.opened(session_id="s", options=NONE)
    await stream.said("1", "one")
    await stream.half_close()
    await stream.rest()
    late = bench.stream()
    await late.send(open=pb.Open(new_session=pb.NewSession(engine="demo")))
    assert await late.failure() == (grpc.StatusCode.RESOURCE_EXHAUSTED, "CAPACITY_EXHAUSTED")
    await bench.stub.DeleteSession(pb.DeleteSessionRequest(name="sessions/s"))
    await bench.opened()


async def test_it_is_deleted_while_a_turn_runs(bench: Bench) -> None:
    stream = await bench.opened(session_id="s", options=NONE)
    await stream.turn("1", generation=ENDLESS)
    await stream.first_delta()
    await bench.stub.DeleteSession(pb.DeleteSessionRequest(name="sessions/s"))
    assert await stream.failure() == (grpc.StatusCode.ABORTED, "SESSION_DELETED")
    assert await _refused(bench.stub.GetSession(pb.GetSessionRequest(name="sessions/s"))) == NOT_FOUND
