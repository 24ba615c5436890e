"""Who may hear of a session, which turns it takes, and when its time runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from common.errors import Aborted, AlreadyExists, FailedPrecondition, Reason, ResourceExhausted, Retry, SinkServeError
from common.errors import Unavailable as Away
from runtime_service.domain.session import OnDisconnect, OnFull
from runtime_service.domain.turn import FinishReason
from runtime_service.sessions.live_session import LiveSession
from runtime_service.turns.events import TurnFinished
from runtime_service.turns.input import restore_turns
from runtime_service.turns.intake import MOST_WAITING
from tests.fakes.session.parts import Listening, SessionParts, request
from tests.samples.session_examples import finished, slot_state, turn


class Bench:
    def __init__(self, **options: Any) -> None:
        self.parts = SessionParts()
        self.broken: list[SinkServeError] = []
        session = self.parts.session(**options)
        self.live = LiveSession(session, self.parts.engine, self.parts.shared, 1, self._on_broken)
        self.stream = Listening()
        self.live.subscribe(self.stream)
        self.scheduler, self.repository = self.parts.scheduler, self.parts.repository

    def _on_broken(self, _live: LiveSession, error: SinkServeError) -> None:
        self.broken.append(error)

    async def accept(self, turn_id: str, *token_ids: int, **fields: Any) -> None:
        await self.live.accept_turn(request(turn_id, *token_ids, **fields), self.stream)

    async def rest(self) -> None:
        if self.live.turns.task is not None:
            await self.live.turns.task
        await self.parts.shared.background.wait()


async def test_a_turn_is_written_before_it_is_accepted_and_heard_to_its_end() -> None:
    bench = Bench()
    await bench.accept("1")
    assert (bench.repository.writes, bench.stream.told) == (["add 1"], [("1", None)])
    await bench.scheduler.come(1)
    bench.scheduler.admit()
    bench.scheduler.end(7)
    await bench.rest()
    assert bench.stream.kinds == ["TurnStarted", "TurnFinished"]
    assert bench.live.idle


async def test_a_turn_that_runs_is_not_accepted_twice() -> None:
    bench = Bench()
    for _ in range(2):
        await bench.accept("1")
    assert bench.stream.told == [("1", None), ("1", False)]
    assert len(bench.live.turns.pending) == 1
    with pytest.raises(AlreadyExists) as caught:
        await bench.accept("1", 9)
    assert caught.value.reason is Reason.TURN_ID_REUSED


@pytest.mark.parametrize("logged", [True, False])
async def test_a_turn_that_ended_is_repeated(*, logged: bool) -> None:
    bench = Bench()
    if logged:
        await bench.accept("t1", 5)
        await bench.scheduler.come(1)
        bench.scheduler.end()
        await bench.rest()
    else:
        bench.repository.turns["t1"] = finished(turn(1, token_ids=(5,)), 1, (7,), 4)
    asked = bench.repository.turns["t1"].request
    await bench.live.accept_turn(asked, bench.stream)
    assert bench.stream.told[-2:] == [("t1", True), "idle"]
    assert len(bench.scheduler.submitted) == logged


async def test_a_turn_that_another_server_accepted_ends_the_session_here() -> None:
    bench = Bench()
    bench.repository.turns["t1"] = other = turn(1, token_ids=(5,))
    with pytest.raises(Aborted) as caught:
        await bench.live.accept_turn(other.request, bench.stream)
    assert (caught.value.reason, bench.broken) == (Reason.SESSION_TAKEN_OVER, [caught.value])


@pytest.mark.parametrize("lost", [True, False])
async def test_a_turn_of_which_nobody_knows_whether_it_was_written_runs_if_it_was(*, lost: bool) -> None:
    bench = Bench()
    bench.repository.loses = lost
    bench.repository.failures = [Away(Reason.DATABASE_UNAVAILABLE, "away")]
    with pytest.raises(Away):
        await bench.accept("1")
    assert not bench.live.turns.pending
    await bench.accept("2")
    assert [pending.turn_id for pending in bench.live.turns.pending] == (["1", "2"] if lost else ["2"])
    assert [pending.turn.number for pending in bench.live.turns.pending] == ([1, 2] if lost else [1])


async def test_no_more_turns_wait_than_may() -> None:
    bench = Bench()
    await bench.accept("first")
    await bench.scheduler.come(1)
    for number in range(MOST_WAITING):
        await bench.accept(str(number))
    with pytest.raises(ResourceExhausted) as caught:
        await bench.accept("more")
    assert caught.value.reason is Reason.TURN_QUEUE_FULL
    assert "add more" not in bench.repository.writes


async def test_a_session_that_does_not_evict_refuses_what_has_no_room() -> None:
    bench = Bench(on_full=OnFull.ERROR)
    with pytest.raises(FailedPrecondition) as caught:
        await bench.accept("1", *range(8))
    assert caught.value.reason is Reason.CONTEXT_FULL
    assert bench.stream.told == ["idle"]


async def test_another_stream_takes_over() -> None:
    bench, second = Bench(), Listening()
    bench.live.subscribe(second)
    assert bench.stream.told == [Reason.SESSION_TAKEN_OVER]
    bench.live.unsubscribe(bench.stream, lost=True)
    bench.live.pause(bench.stream, paused=True)
    assert ("pause", True) not in bench.scheduler.calls
    assert bench.live.busy
    bench.live.announce_drain(3.0)
    assert second.told == [("drain", 3.0)]


@pytest.mark.parametrize(("goes_on", "lost"), [(False, True), (True, True), (False, False)])
async def test_turns_of_a_lost_stream_are_cancelled_unless_they_go_on(*, goes_on: bool, lost: bool) -> None:
    bench = Bench(on_disconnect=OnDisconnect.CONTINUE if goes_on else OnDisconnect.CANCEL)
    await bench.accept("1")
    await bench.scheduler.come(1)
    bench.live.unsubscribe(bench.stream, lost=lost)
    assert (("cancel", "1", False) in bench.scheduler.calls) is (lost and not goes_on)


async def test_a_turn_that_is_accepted_for_a_lost_stream_does_not_run() -> None:
    bench = Bench(on_disconnect=OnDisconnect.CANCEL)
    bench.live.unsubscribe(bench.stream, lost=True)
    await bench.accept("1")
    await bench.rest()
    result = bench.repository.turns["1"].result
    assert result is not None
    assert result.reason is FinishReason.CANCELLED
    assert not bench.scheduler.submitted


async def test_time_runs_while_nobody_uses_it() -> None:
    bench = Bench(delete_after_idle_s=60.0)
    bench.live.unsubscribe(bench.stream, lost=False)
    await bench.rest()
    assert bench.live.session.expires_at is not None
    bench.live.subscribe(bench.stream)
    await bench.rest()
    assert bench.live.session.expires_at is None
    assert bench.repository.writes == ["expiry", "no expiry"]


@pytest.mark.parametrize("keeps", [True, False])
async def test_a_session_that_leaves_memory_is_let_go(*, keeps: bool) -> None:
    bench = Bench()
    bench.scheduler.cache = state = slot_state(2)
    await bench.live.unload(Aborted(Reason.SESSION_DELETED, "gone"), keep_cache=keeps)
    assert (bench.parts.claims.released, bench.parts.caches.kept) == (["a"], [state if keeps else None])
    assert bench.stream.told == [Reason.SESSION_DELETED]
    with pytest.raises(Aborted):
        await bench.accept("1")


async def test_restored_turns_run_in_order_and_only_the_first_counts_as_begun() -> None:
    bench = Bench()
    left = [turn(1, token_ids=(5,)), turn(2, token_ids=(6,))]
    restored = restore_turns(left, bench.live.session, bench.parts.engine)
    assert [(pending.turn.attempt, pending.work.prompt) for pending in restored] == [(2, (5,)), (1, (6,))]
    bench.live.run_turns(restored)
    for number in (1, 2):
        await bench.scheduler.come(number)
        bench.scheduler.end()
    await bench.rest()
    told = [event.turn_id for event in bench.stream.events if isinstance(event.body, TurnFinished)]
    assert told == ["t1", "t2"]


async def test_an_engine_that_leaves_takes_no_turns() -> None:
    bench = Bench()
    bench.parts.engine.closed = True
    with pytest.raises(Away) as caught:
        await bench.accept("1")
    assert (caught.value.reason, caught.value.retry) == (Reason.ENGINE_NOT_LOADED, Retry.REOPEN)


async def test_a_cache_has_to_be_computed_again_unless_it_is_kept_or_there_is_nothing_in_it() -> None:
    bench = Bench()
    assert not bench.live.recomputes, "nothing but its opening"
    bench.live.state.session = replace(bench.live.session, position=9)
    assert bench.live.recomputes
    bench.parts.caches.found = slot_state(9)
    assert not bench.live.recomputes


async def test_changes_made_elsewhere_are_gone_by_and_nothing_else_of_what_was_read() -> None:
    bench = Bench(delete_after_idle_s=60.0)
    bench.live.unsubscribe(bench.stream, lost=False)
    before = bench.live.session
    assert before.expires_at is not None
    relabelled = replace(before, labels={"k": "w"}, position=99, expires_at=None)
    bench.live.adopt(relabelled)
    assert bench.live.session == replace(before, labels={"k": "w"})
    bench.live.adopt(replace(before, options=replace(before.options, delete_after_idle_s=3600.0)))
    assert bench.live.session.expires_at is not None
    assert bench.live.session.expires_at > before.expires_at
    bench.live.adopt(replace(before, options=replace(before.options, delete_after_idle_s=None)))
    assert bench.live.session.expires_at is None
    await bench.rest()
    assert bench.repository.writes == ["expiry", "expiry", "expiry", "no expiry"]


async def test_a_session_with_a_subscriber_does_not_expire_by_a_change() -> None:
    bench = Bench(delete_after_idle_s=60.0)
    bench.live.adopt(replace(bench.live.session, options=replace(bench.live.session.options, delete_after_idle_s=1.0)))
    assert bench.live.session.expires_at is None
    bench.live.unsubscribe(bench.stream, lost=False)
    assert bench.live.session.expires_at is not None
