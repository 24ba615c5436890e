"""Several runtimes on one database and one store: any of them serves any session, and one at a time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from sqlalchemy import update

from common.db.database import connect, database_time
from common.db.schema import upgrade
from common.errors import Reason, Unavailable
from runtime_service.domain.turn import Turn
from runtime_service.storage.tables import replicas
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.servers.databases import KINDS, new_database_url
from tests.service.runtime.runtime import ENDLESS, Bench, Stream, eventually, info, kinds, reaper_passes

TAKEN_OVER = (grpc.StatusCode.ABORTED, "SESSION_TAKEN_OVER")


@dataclass
class Replicas:
    """Two of them."""

    here: Bench
    there: Bench

    async def forget_lease(self, bench: Bench) -> None:
        """As if it had been paused for longer than its lease."""
        await self.pause(bench)
        database = connect(bench.shared.database)
        with database.write() as connection:
            its = replicas.c.replica == bench.handle.shared.claims.replica
            past = database_time(connection) - timedelta(seconds=1)
            connection.execute(update(replicas).where(its).values(lease_expires=past))
        database.close()

    async def pause(self, bench: Bench) -> None:
        """It says no more that it is alive, and hands nothing over; its streams and its engine go on."""
        tasks = bench.handle.membership.tasks
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture(params=KINDS)
async def both(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Replicas]:
    with new_database_url(request.param, tmp_path) as url:
        database = connect(url)
        upgrade(database)
        database.close()
        benches = [Bench(tmp_path, {}, url) for _ in range(2)]
        benches[0].publish()
        for bench in benches:
            await bench.start()
        yield Replicas(*benches)
        for bench in benches:
            if bench.channel is not None:
                await bench.channel.close()
            await bench.stop()


async def _history(bench: Bench, session: str) -> list[str]:
    """Ids of all turns."""
    return [turn.turn_id for turn in (await bench.stub.ListTurns(pb.ListTurnsRequest(session=session))).turns]


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
    assert await _history(both.there, "sessions/s") == ["1", "2", "3"]


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
    assert await _history(both.here, "sessions/s") == ["1"]
    assert max(event.sequence for event in stream.events) < min(
        event.sequence for event in moved.events if event.sequence
    )


async def test_a_turn_is_known_wherever_it_is_sent_again(both: Replicas) -> None:
    stream = await both.here.opened(session_id="s")
    first = await stream.said("1")
    moved = await both.there.resumed("sessions/s")
    assert await moved.said("1") == first
    assert len(await _history(both.there, "sessions/s")) == 1


async def test_who_was_thought_dead_and_wakes_changes_nothing(both: Replicas) -> None:
    stream = await both.here.opened(session_id="s")
    await stream.said("1")
    last = stream.events[-1].sequence
    await stream.turn("2", generation=ENDLESS)
    await stream.first_delta()
    await both.forget_lease(both.here)
    moved = await both.there.resumed("sessions/s", after_sequence=last)
    started = (await moved.until("started"))[-1].started
    assert (started.turn_id, started.attempt) == ("2", 2)
    await moved.send(cancel=pb.CancelTurn(turn_id="2"))
    await moved.finished()
    before = await _history(both.there, "sessions/s")
    await stream.send(cancel=pb.CancelTurn(turn_id="2"))  # its end cannot be kept
    assert await stream.failure() == TAKEN_OVER
    assert await _history(both.there, "sessions/s") == before
    assert not both.here.handle.sessions.live


async def test_a_turn_at_who_was_thought_dead_is_not_taken(both: Replicas) -> None:
    stream = await both.here.opened(session_id="s")
    await stream.said("1")
    await both.forget_lease(both.here)
    moved = await both.there.resumed("sessions/s")
    await stream.turn("2")
    assert await stream.failure() == TAKEN_OVER
    await moved.said("3")
    assert await _history(both.there, "sessions/s") == ["1", "3"]


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
    assert await _history(both.there, "sessions/s") == ["1"]


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


async def test_who_does_not_hand_over_and_says_that_it_is_alive_is_waited_for(
    both: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime_service.sessions.ownership.CLAIM_LEASES", 0.02)
    await both.here.opened(session_id="s")
    await both.pause(both.here)
    stream = both.there.stream()
    await stream.send(open=pb.Open(session="sessions/s"))
    assert await stream.failure() == (grpc.StatusCode.UNAVAILABLE, "SESSION_BUSY")


@pytest.mark.parametrize("discard", [True, False])
async def test_a_turn_is_cancelled_from_anywhere_and_nothing_is_taken_over(both: Replicas, discard: bool) -> None:
    stream = await both.here.opened(session_id="s")
    await stream.turn("1", generation=ENDLESS)
    await stream.turn("2")
    await stream.first_delta()
    cancel = pb.CancelTurnRequest(session="sessions/s", turn_id="1", discard=discard)
    for _ in range(2):
        await both.there.stub.CancelTurn(cancel)
    first = await stream.finished()
    assert (first.turn_id, first.reason) == ("1", pb.FINISH_REASON_CANCELLED)
    assert (first.usage.position == 1) is discard, "only the opening token is left"
    assert (await stream.finished()).reason == pb.FINISH_REASON_LENGTH
    await both.there.stub.CancelTurn(cancel)
    await both.there.stub.CancelTurn(pb.CancelTurnRequest(session="sessions/s", turn_id="none"))
    await stream.said("3")
    assert await _history(both.there, "sessions/s") == ["1", "2", "3"]


async def test_a_session_is_deleted_from_anywhere(both: Replicas) -> None:
    stream = await both.here.opened(session_id="s")
    await stream.said("1")
    await both.there.stub.DeleteSession(pb.DeleteSessionRequest(name="sessions/s"))
    assert await stream.failure() == TAKEN_OVER
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await both.here.stub.GetSession(pb.GetSessionRequest(name="sessions/s"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


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


async def test_a_session_that_expires_elsewhere_is_left_to_who_has_it(both: Replicas) -> None:
    options = pb.SessionOptions()
    options.delete_after_idle_duration.FromMilliseconds(10)
    for bench in (both.here, both.there):
        await bench.restart(reap_s=0.02)
    stream = await both.here.opened(session_id="s", options=options)
    await stream.said("1")
    for bench in (both.here, both.there):
        passes = reaper_passes(bench)
        assert [await passes.get() for _ in range(3)] == [0, 0, 0]
    await stream.said("2")  # a session that is followed does not expire
    await stream.half_close()
    await stream.rest()

    async def gone() -> bool:
        try:
            await both.there.stub.GetSession(pb.GetSessionRequest(name="sessions/s"))
        except grpc.aio.AioRpcError as error:
            return error.code() is grpc.StatusCode.NOT_FOUND
        return False

    await eventually(gone)


async def test_a_session_is_changed_at_another_server_under_its_stream(both: Replicas) -> None:
    stream = await both.here.opened(session_id="s", labels={"team": "x"})
    idle = pb.SessionOptions()
    idle.delete_after_idle_duration.FromSeconds(3600)
    session = pb.Session(name="sessions/s", labels={"team": "y"}, options=idle)
    mask = FieldMask(paths=["labels", "options.delete_after_idle_duration"])
    answer = await both.there.stub.UpdateSession(pb.UpdateSessionRequest(session=session, update_mask=mask))
    assert answer.session.labels == {"team": "y"}

    async def known() -> bool:
        found = (await both.here.stub.GetSession(pb.GetSessionRequest(name="sessions/s"))).session
        return found.labels == {"team": "y"} and found.options.delete_after_idle_duration.seconds == 3600

    await eventually(known)
    await stream.said("1")
    await stream.half_close()
    await stream.rest()

    async def expires() -> bool:
        found = (await both.there.stub.GetSession(pb.GetSessionRequest(name="sessions/s"))).session
        return found.HasField("expire_time")

    await eventually(expires)
    moved = await both.there.resumed("sessions/s")
    await moved.said("2")
    assert await _history(both.there, "sessions/s") == ["1", "2"]


async def test_many_streams_that_want_one_session_get_it_one_after_the_other(both: Replicas) -> None:
    stream = await both.here.opened(session_id="s")
    await stream.said("0")
    for number in range(1, 7):
        bench = (both.here, both.there)[number % 2]
        moved = await bench.resumed("sessions/s")
        await moved.said(str(number))
    assert await _history(both.here, "sessions/s") == [str(number) for number in range(7)]


async def _two_stories(both: Replicas) -> tuple[Stream, list[int]]:
    """`here` is thought dead with turn 2 at its end, and `there` goes on without it; what comes third, then."""
    stream = await both.here.opened(session_id="s")
    await stream.said("1", text="one")
    await stream.said("2", text="two")
    await both.forget_lease(both.here)
    await both.there.stub.RewindSession(pb.RewindSessionRequest(name="sessions/s", turn_id="1"))
    moved = await both.there.resumed("sessions/s")
    await moved.said("other", text="another story that is not the one before")
    return moved, await both.there.said("one", "another story that is not the one before", "three")


async def test_who_wakes_and_is_asked_for_a_session_that_it_lost_goes_on_as_the_others_did(both: Replicas) -> None:
    moved, third = await _two_stories(both)
    await both.here.handle.membership.start()
    back = await both.here.resumed("sessions/s")
    assert await moved.failure() == TAKEN_OVER
    assert await back.said("3", text="three") == third
    assert await _history(both.here, "sessions/s") == ["1", "other", "3"]


async def test_a_fork_by_who_was_thought_dead_goes_on_as_the_others_did(both: Replicas) -> None:
    _, third = await _two_stories(both)
    await both.here.stub.ForkSession(pb.ForkSessionRequest(name="sessions/s", session_id="f"))
    fork = await both.here.resumed("sessions/f")
    assert await fork.said("3", text="three") == third


async def test_a_turn_that_another_accepted_is_not_taken_by_who_was_thought_dead(both: Replicas) -> None:
    stream = await both.here.opened(session_id="s")
    await stream.said("1")
    await both.forget_lease(both.here)
    moved = await both.there.resumed("sessions/s")
    await moved.turn("2", generation=ENDLESS)
    await moved.first_delta()
    await stream.turn("2", generation=ENDLESS)
    assert await stream.failure() == TAKEN_OVER
    await moved.send(cancel=pb.CancelTurn(turn_id="2"))
    await moved.finished()
