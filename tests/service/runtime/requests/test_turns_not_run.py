"""Calls of RunTurn whose turn is refused, lost or late, over a real socket."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from grpc_status import rpc_status

from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.service.runtime.options import CANCELS
from tests.service.runtime.requests.calls import (
    CANCELLED,
    TAKEN_OVER,
    becomes,
    cancel,
    created,
    held_add_turn,
    history,
    run,
    running,
)
from tests.service.runtime.runtime import ENDLESS, Bench, Stream, eventually, kinds, reason_of, refusal, violations
from tests.service.runtime.waits import slowly


async def test_eight_turns_wait_and_the_ninth_is_refused(bench: Bench) -> None:
    session = (await created(bench)).name
    last = await running(bench, session, "0")
    for number in range(1, 9):
        waiting = run(bench, session, str(number))
        await waiting.until("opened")
        assert await last.failure() == TAKEN_OVER
        await becomes(bench, session, [(str(each), 0) for each in range(number + 1)])
        last = waiting
    ninth = run(bench, session, "9")
    assert await ninth.failure() == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TURN_QUEUE_FULL")
    assert kinds(ninth.events) == ["opened"]
    await cancel(bench, session, "0")
    ended = [("0", CANCELLED), *((str(number), pb.FINISH_REASON_LENGTH) for number in range(1, 9))]
    await becomes(bench, session, ended)


@pytest.mark.parametrize(
    ("turn", "code", "reason", "field"),
    [
        (pb.Turn(turn_id="t", text="another"), "ALREADY_EXISTS", "TURN_ID_REUSED", "turn.turn_id"),
        (pb.Turn(turn_id="x" * 65, text="x"), "INVALID_ARGUMENT", "INVALID_FIELD", "turn.turn_id"),
        (pb.Turn(text="x" * 100), "INVALID_ARGUMENT", "TURN_EXCEEDS_WINDOW", "turn.text"),
        (
            pb.Turn(text="x", generation=pb.GenerationOptions(temperature=-1)),
            "INVALID_ARGUMENT",
            "INVALID_FIELD",
            "turn.generation.temperature",
        ),
    ],
    ids=["reused", "id", "long", "temperature"],
)
async def test_a_turn_that_is_not_accepted_ends_the_call_with_the_error_and_changes_nothing(
    bench: Bench, turn: pb.Turn, code: str, reason: str, field: str
) -> None:
    session = (await created(bench)).name
    other = await running(bench, session, "t")
    refused = Stream(bench.stub.RunTurn(pb.RunTurnRequest(session=session, turn=turn)))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await refused.rest()
    assert (caught.value.code(), reason_of(caught.value)) == (grpc.StatusCode[code], reason)
    status = rpc_status.from_call(caught.value)
    assert status is not None
    assert violations(status) == [field]
    assert kinds(refused.events) == ["opened"]
    assert await other.failure() == TAKEN_OVER
    assert await history(bench, session) == [("t", 0)]
    await cancel(bench, session, "t")  # nobody follows it any more


async def test_a_call_without_a_turn_is_refused(bench: Bench) -> None:
    session = (await created(bench)).name
    empty = Stream(bench.stub.RunTurn(pb.RunTurnRequest(session=session)))
    assert await empty.failure() == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert await history(bench, session) == []


async def test_wrong_names_are_refused(bench: Bench) -> None:
    absent = (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")
    assert await run(bench, "sessions/none").failure() == absent
    assert await refusal(cancel(bench, "sessions/none", "t")) == absent
    for call in (run(bench, "none").rest(), cancel(bench, "none", "t")):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        status = rpc_status.from_call(caught.value)
        assert status is not None
        assert violations(status) == ["session"]
        assert status.message.startswith("session has to be sessions/ID")


async def test_a_call_past_its_deadline_is_a_lost_one(bench: Bench) -> None:
    bench.before_step = slowly
    session = (await created(bench, options=CANCELS)).name
    code, _ = await run(bench, session, "t", generation=ENDLESS, timeout=3.0).failure()
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    await becomes(bench, session, [("t", CANCELLED)])


async def test_a_lost_call_cancels_its_turn_where_the_session_says_so(bench: Bench) -> None:
    bench.before_step = slowly
    for options, reason in ((CANCELS, CANCELLED), (None, pb.FINISH_REASON_LENGTH)):
        session = (await created(bench, options=options)).name
        lost = run(bench, session, "t", generation={"max_new_tokens": 100, "ignore_eos": True})
        await lost.first_delta()
        lost.call.cancel()
        await becomes(bench, session, [("t", reason)])
        assert not any(live.busy for live in bench.handle.sessions.live)


async def test_a_lost_call_cancels_a_turn_that_was_being_accepted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = (await created(bench, options=CANCELS)).name
    asked, answer = held_add_turn(bench, monkeypatch)
    lost = run(bench, session, "t")
    await asked.wait()
    lost.call.cancel()

    async def left() -> bool:
        return not bench.handle.conversations.streams

    await eventually(left)
    answer.set()
    await becomes(bench, session, [("t", CANCELLED)])
    assert not bench.engines[0].steps


async def test_a_server_that_stops_lets_the_turn_finish_and_takes_no_other(bench: Bench) -> None:
    bench.before_step = slowly
    session, other = (await created(bench)).name, (await created(bench)).name
    call = run(bench, session, "t", generation={"max_new_tokens": 100, "ignore_eos": True})
    await call.first_delta()
    stopping = asyncio.create_task(bench.handle.stop())
    await call.until("go_away")
    assert (await run(bench, other, "late").failure())[0] is grpc.StatusCode.UNAVAILABLE
    rest = await call.rest()
    assert rest[-1].finished.reason == pb.FINISH_REASON_LENGTH
    await stopping
    bench.runtime = None
