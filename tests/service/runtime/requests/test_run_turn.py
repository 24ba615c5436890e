"""RunTurn over a real socket: turns of clients that cannot send a stream."""

from __future__ import annotations

import pytest

from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.service.runtime.options import TEN
from tests.service.runtime.requests.calls import (
    CANCELLED,
    HOUR,
    TAKEN_OVER,
    becomes,
    cancel,
    created,
    got,
    held_add_turn,
    history,
    run,
    running,
)
from tests.service.runtime.runtime import Bench, kinds, tokens_of
from tests.service.runtime.waits import slowly


async def test_turns_run_one_after_another_in_one_conversation(bench: Bench) -> None:
    expected = await bench.said("one", "two")
    session = await created(bench, options=HOUR)
    first = await run(bench, session.name, "a", "one", generation={"max_new_tokens": 6}).rest()
    assert kinds(first)[:2] == ["opened", "started"]
    assert kinds(first)[-1] == "finished"
    assert first[0].opened.session.name == session.name
    second = await run(bench, session.name, "b", "two", generation={"max_new_tokens": 6}).rest()
    assert tokens_of(second) == expected
    assert await history(bench, session.name) == [("a", pb.FINISH_REASON_LENGTH), ("b", pb.FINISH_REASON_LENGTH)]
    assert (await got(bench, session.name)).HasField("expire_time")


async def test_the_same_turn_is_told_again_and_never_runs_twice(bench: Bench) -> None:
    session = (await created(bench)).name
    first = await run(bench, session, "t").rest()
    steps = len(bench.engines[0].steps)
    again = await run(bench, session, "t").rest()
    assert (tokens_of(again), again[-1]) == (tokens_of(first), first[-1])
    assert len(bench.engines[0].steps) == steps
    await bench.restart()
    retold = await run(bench, session, "t").rest()
    assert kinds(retold) == ["opened", "started", "delta", "finished"]
    assert tokens_of(retold) == tokens_of(first)
    assert await history(bench, session) == [("t", pb.FINISH_REASON_LENGTH)]


async def test_a_call_dropped_at_any_event_and_made_again_tells_the_whole_turn_once_more(bench: Bench) -> None:
    expected = tokens_of(await run(bench, (await created(bench)).name).rest())
    bench.before_step = slowly
    for seen in range(13):
        session = (await created(bench)).name
        lost = run(bench, session, "t")
        while len(lost.events) < seen and "finished" not in kinds(lost.events):
            await lost.next()
        lost.call.cancel()
        again = await run(bench, session, "t").rest()
        assert kinds(again)[:2] == ["opened", "started"]
        assert tokens_of(again) == expected
        assert await history(bench, session) == [("t", pb.FINISH_REASON_LENGTH)]


async def test_who_runs_a_turn_takes_the_session_over_and_the_turns_before_go_on(bench: Bench) -> None:
    bench.before_step = slowly
    stream = await bench.opened()
    await stream.turn("a", generation=TEN)
    await stream.first_delta()
    second = run(bench, stream.session, "b")
    assert await stream.failure() == TAKEN_OVER
    await second.until("opened")
    third = run(bench, stream.session, "c")
    assert await second.failure() == TAKEN_OVER
    told = await third.rest()
    assert {event.finished.turn_id for event in told if event.HasField("finished")} == {"c"}
    assert await history(bench, stream.session) == [(name, pb.FINISH_REASON_LENGTH) for name in "abc"]


async def test_a_running_turn_is_told_from_its_start_to_who_asks_for_it_again(bench: Bench) -> None:
    bench.before_step = slowly
    session = (await created(bench)).name
    first = run(bench, session, "t")
    await first.first_delta()
    again = await run(bench, session, "t").rest()
    assert await first.failure() == TAKEN_OVER
    assert kinds(again)[:2] == ["opened", "started"]
    assert len(tokens_of(again)) == 10
    assert await history(bench, session) == [("t", pb.FINISH_REASON_LENGTH)]


async def test_a_call_ends_with_its_own_turn_whatever_else_runs(bench: Bench) -> None:
    session = (await created(bench)).name
    told = await run(bench, session, "old").rest()
    long = await running(bench, session, "long")
    assert (await run(bench, session, "old").rest())[-1] == told[-1]
    assert await long.failure() == TAKEN_OVER
    assert await history(bench, session) == [("old", pb.FINISH_REASON_LENGTH), ("long", 0)]
    await cancel(bench, session, "long")
    await becomes(bench, session, [("old", pb.FINISH_REASON_LENGTH), ("long", CANCELLED)])


async def test_a_turn_that_is_being_accepted_when_another_call_comes_runs(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = (await created(bench)).name
    asked, answer = held_add_turn(bench, monkeypatch)
    first = run(bench, session, "a")
    await asked.wait()
    second = run(bench, session, "b")
    assert await first.failure() == TAKEN_OVER
    answer.set()
    await second.rest()
    assert await history(bench, session) == [("a", pb.FINISH_REASON_LENGTH), ("b", pb.FINISH_REASON_LENGTH)]
