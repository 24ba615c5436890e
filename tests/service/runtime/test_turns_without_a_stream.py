"""CreateSession, RunTurn and CancelTurn over a real socket: what a client does that cannot send a stream."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_status import rpc_status

from runtime_service.domain.turn import Turn
from runtime_service.sessions.live_session import LiveSession
from sinkserve.client import Client, FinishReason, NotFound
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.service.runtime.runtime import ENDLESS, Bench, Stream, eventually, kinds, reason_of, tokens_of, violations

CANCELS = pb.SessionOptions(on_disconnect=pb.SessionOptions.ON_DISCONNECT_CANCEL)
HOUR = pb.SessionOptions(delete_after_idle_duration=Duration(seconds=3600))
TEN = {"max_new_tokens": 10, "ignore_eos": True}
TAKEN_OVER = (grpc.StatusCode.ABORTED, "SESSION_TAKEN_OVER")
CANCELLED = pb.FINISH_REASON_CANCELLED


def slowly(_feeds: object) -> None:
    time.sleep(0.003)


async def created(bench: Bench, engine: str = "demo", **new_session: Any) -> pb.Session:
    request = pb.CreateSessionRequest(new_session=pb.NewSession(engine=engine, **new_session))
    return (await bench.stub.CreateSession(request)).session


def run(
    bench: Bench,
    session: str,
    turn_id: str = "",
    text: str = "hello",
    *,
    generation: dict[str, Any] = TEN,
    timeout: float | None = None,
) -> Stream:
    """A call of RunTurn."""
    turn = pb.Turn(turn_id=turn_id, text=text, generation=pb.GenerationOptions(**generation))
    return Stream(bench.stub.RunTurn(pb.RunTurnRequest(session=session, turn=turn), timeout=timeout))


async def running(bench: Bench, session: str, turn_id: str) -> Stream:
    """A call whose turn generates until it is cancelled."""
    stream = run(bench, session, turn_id, generation=ENDLESS)
    await stream.first_delta()
    return stream


async def cancel(bench: Bench, session: str, turn_id: str, *, discard: bool = False) -> None:
    await bench.stub.CancelTurn(pb.CancelTurnRequest(session=session, turn_id=turn_id, discard=discard))


async def got(bench: Bench, name: str) -> pb.Session:
    return (await bench.stub.GetSession(pb.GetSessionRequest(name=name))).session


async def history(bench: Bench, session: str) -> list[tuple[str, int]]:
    """Id and reason of every turn."""
    turns = (await bench.stub.ListTurns(pb.ListTurnsRequest(session=session))).turns
    return [(turn.turn_id, turn.reason) for turn in turns]


async def becomes(bench: Bench, session: str, expected: Sequence[tuple[str, int]]) -> None:
    """Wait until the session's history is this."""

    async def true() -> bool:
        return await history(bench, session) == list(expected)

    await eventually(true)


async def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), reason_of(caught.value)


async def restarted(bench: Bench, **settings: Any) -> None:
    await bench.stop()
    bench.settings |= settings
    await bench.start()


# CreateSession


async def test_a_session_is_created_without_a_stream(bench: Bench) -> None:
    session = await created(bench, session_id="mine", labels={"k": "v"}, options=CANCELS)
    assert (session.name, session.engine, session.labels["k"]) == ("sessions/mine", "demo@1", "v")
    assert session.options.on_disconnect == pb.SessionOptions.ON_DISCONNECT_CANCEL
    assert await got(bench, "sessions/mine") == session
    assert await history(bench, "sessions/mine") == []
    assert (await created(bench)).name != (await created(bench)).name


async def test_creating_again_finds_the_session_and_takes_nothing_over(bench: Bench) -> None:
    stream = await bench.opened(session_id="mine")
    await stream.turn()
    await stream.finished()
    again = await created(bench, session_id="mine")
    assert (again.name, again.turns) == ("sessions/mine", 1)
    await stream.turn()
    await stream.finished()
    await restarted(bench)
    assert (await created(bench, session_id="mine")).turns == 2
    other = created(bench, session_id="mine", system_prompt="another")
    assert await refusal(other) == (grpc.StatusCode.ALREADY_EXISTS, "SESSION_EXISTS")


@pytest.mark.parametrize(
    ("new_session", "code", "field"),
    [
        (pb.NewSession(engine="nobody"), "NOT_FOUND", "new_session.engine"),
        (pb.NewSession(), "INVALID_ARGUMENT", "new_session.engine"),
        (pb.NewSession(engine="demo", session_id="A!"), "INVALID_ARGUMENT", "new_session.session_id"),
        (
            pb.NewSession(engine="demo", options=pb.SessionOptions(window_tokens=0)),
            "INVALID_ARGUMENT",
            "new_session.options.window_tokens",
        ),
    ],
)
async def test_a_wrong_new_session_names_its_field(
    bench: Bench, new_session: pb.NewSession, code: str, field: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await bench.stub.CreateSession(pb.CreateSessionRequest(new_session=new_session))
    status = rpc_status.from_call(caught.value)
    assert status is not None
    assert caught.value.code() is grpc.StatusCode[code]
    assert violations(status) == [field]
    assert "open." not in str(status)


async def test_the_time_of_a_session_that_nobody_opens_runs(bench: Bench) -> None:
    session = await created(bench, session_id="mine", options=HOUR)
    assert (await got(bench, session.name)).HasField("expire_time")
    stream = await bench.resumed(session.name)
    assert not (await got(bench, session.name)).HasField("expire_time")
    await created(bench, session_id="mine", options=HOUR)
    assert not (await got(bench, session.name)).HasField("expire_time")
    await stream.half_close()
    await stream.rest()
    await restarted(bench)
    await created(bench, session_id="mine", options=HOUR)
    assert bench.handle.sessions.live[0].session.expires_at is not None


async def test_the_time_of_a_session_runs_although_who_asked_for_it_left_before_it_was_there(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, repository = asyncio.get_running_loop(), bench.handle.shared.repository
    asked, answer, create = asyncio.Event(), threading.Event(), repository.create

    def slow_create(*session: Any) -> Any:
        loop.call_soon_threadsafe(asked.set)
        answer.wait(20)
        return create(*session)

    monkeypatch.setattr(repository, "create", slow_create)
    stream = bench.stream()
    await stream.send(open=pb.Open(new_session=pb.NewSession(engine="demo", session_id="mine", options=HOUR)))
    await asked.wait()
    stream.call.cancel()

    async def left() -> bool:
        return not bench.handle.conversations.streams

    await eventually(left)
    answer.set()

    async def expires() -> bool:
        return any(live.session.expires_at for live in bench.handle.sessions.live)

    await eventually(expires)


# RunTurn


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
    await restarted(bench)
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
    asked, answer = _held_add_turn(bench, monkeypatch)
    first = run(bench, session, "a")
    await asked.wait()
    second = run(bench, session, "b")
    assert await first.failure() == TAKEN_OVER
    answer.set()
    await second.rest()
    assert await history(bench, session) == [("a", pb.FINISH_REASON_LENGTH), ("b", pb.FINISH_REASON_LENGTH)]


def _held_add_turn(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> tuple[asyncio.Event, threading.Event]:
    """Turns are kept once the second event is set; the first says that one is asked for."""
    loop, repository = asyncio.get_running_loop(), bench.handle.shared.repository
    asked, answer, add_turn = asyncio.Event(), threading.Event(), repository.add_turn

    def slow_add(session: Any, turn: Turn) -> None:
        loop.call_soon_threadsafe(asked.set)
        answer.wait(20)
        add_turn(session, turn)

    monkeypatch.setattr(repository, "add_turn", slow_add)
    return asked, answer


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
    session = (await created(bench, options=CANCELS)).name
    code, _ = await run(bench, session, "t", generation=ENDLESS, timeout=0.5).failure()
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
    asked, answer = _held_add_turn(bench, monkeypatch)
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


# CancelTurn


async def test_a_turn_is_cancelled_from_another_connection(bench: Bench) -> None:
    session = (await created(bench)).name
    call = await running(bench, session, "t")
    async with Client(bench.handle.address, "nowhere:1") as elsewhere:
        await elsewhere.sessions.cancel_turn(session, "t")
    assert (await call.rest())[-1].finished.reason == CANCELLED
    assert await history(bench, session) == [("t", CANCELLED)]


async def test_cancelling_takes_no_stream_over(bench: Bench) -> None:
    stream = await bench.opened()
    await stream.turn("t", generation=ENDLESS)
    await stream.turn("waits")
    await stream.first_delta()
    await cancel(bench, stream.session, "waits")
    await cancel(bench, stream.session, "t")
    assert [(await stream.finished()).reason for _ in range(2)] == [CANCELLED] * 2
    await stream.turn()
    assert (await stream.finished()).reason == pb.FINISH_REASON_LENGTH


async def test_a_discarded_turn_leaves_no_trace(bench: Bench) -> None:
    expected = await bench.said("hello", "hello")
    session = (await created(bench)).name
    six = {"max_new_tokens": 6}
    position = (await run(bench, session, generation=six).rest())[-1].finished.usage.position
    call = await running(bench, session, "t")
    await cancel(bench, session, "t", discard=True)
    assert (await call.rest())[-1].finished.usage.position == position
    assert tokens_of(await run(bench, session, generation=six).rest()) == expected


async def test_turns_that_do_not_run_stay_as_they_are(bench: Bench) -> None:
    session = (await created(bench)).name
    await run(bench, session, "t").rest()
    call = await running(bench, session, "runs")
    await cancel(bench, session, "t", discard=True)
    await cancel(bench, session, "unknown")
    await cancel(bench, session, "")
    await call.first_delta()
    await cancel(bench, session, "runs")
    await call.rest()
    await restarted(bench)
    await cancel(bench, session, "t", discard=True)
    assert not bench.handle.sessions.live
    assert await history(bench, session) == [("t", pb.FINISH_REASON_LENGTH), ("runs", CANCELLED)]


async def test_a_turn_that_is_being_accepted_is_cancelled(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    session = (await created(bench)).name
    asked, answer = _held_add_turn(bench, monkeypatch)
    arrived, cancel_turn = asyncio.Event(), LiveSession.cancel_turn

    async def noted(live: LiveSession, turn_id: str, *, discard: bool) -> None:
        arrived.set()
        await cancel_turn(live, turn_id, discard=discard)

    monkeypatch.setattr(LiveSession, "cancel_turn", noted)
    call = run(bench, session, "t", generation=ENDLESS)
    await asked.wait()
    cancelling = asyncio.create_task(cancel(bench, session, "t"))
    await arrived.wait()
    answer.set()
    await cancelling
    assert (await call.rest())[-1].finished.reason == CANCELLED


async def test_owners_do_not_reach_each_others_turns(bench: Bench) -> None:
    await restarted(bench, principal_header="X-User")
    ann, bob = (("x-user", "ann"),), (("x-user", "bob"),)
    new = pb.CreateSessionRequest(new_session=pb.NewSession(engine="demo", session_id="mine"))
    session = (await bench.stub.CreateSession(new, metadata=ann)).session.name
    absent = (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")
    turn = pb.RunTurnRequest(session=session, turn=pb.Turn(text="x"))
    assert await Stream(bench.stub.RunTurn(turn, metadata=bob)).failure() == absent
    stop = pb.CancelTurnRequest(session=session, turn_id="t")
    assert await refusal(bench.stub.CancelTurn(stop, metadata=bob)) == absent
    assert kinds(await Stream(bench.stub.RunTurn(turn, metadata=ann)).rest())[-1] == "finished"


# The client of this package


async def test_the_client_creates_sessions_and_cancels_turns(bench: Bench) -> None:
    async with Client(bench.handle.address, "nowhere:1") as client:
        session = await client.sessions.create("demo", session_id="mine", system_prompt="be brief", labels={"k": "v"})
        assert (session.name, session.labels["k"]) == ("sessions/mine", "v")
        again = client.sessions.create("demo", session_id="mine", system_prompt="be brief", labels={"k": "v"})
        assert (await again).name == session.name
        assert (await client.sessions.create("demo")).name != (await client.sessions.create("demo")).name
        async with client.conversation(session=session.name) as conversation:
            turn = await conversation.say("hello", max_new_tokens=5000, ignore_eos=True)
            await anext(aiter(turn))
            await client.sessions.cancel_turn(session.name, turn.id, discard=True)
            assert (await turn.wait()).reason is FinishReason.CANCELLED
        with pytest.raises(NotFound):
            await client.sessions.cancel_turn("sessions/none", turn.id)
