"""CancelTurn over a real socket: turns are stopped from another connection."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from runtime_service.sessions.live_session import LiveSession
from sinkserve.client import Client
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.service.runtime.requests.calls import CANCELLED, cancel, created, held_add_turn, history, run, running
from tests.service.runtime.runtime import ENDLESS, Bench, Stream, kinds, refusal, tokens_of


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
    await bench.restart()
    await cancel(bench, session, "t", discard=True)
    assert not bench.handle.sessions.live
    assert await history(bench, session) == [("t", pb.FINISH_REASON_LENGTH), ("runs", CANCELLED)]


async def test_a_turn_that_is_being_accepted_is_cancelled(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    session = (await created(bench)).name
    asked, answer = held_add_turn(bench, monkeypatch)
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
    await bench.restart(principal_header="X-User")
    ann, bob = (("x-user", "ann"),), (("x-user", "bob"),)
    new = pb.CreateSessionRequest(new_session=pb.NewSession(engine="demo", session_id="mine"))
    session = (await bench.stub.CreateSession(new, metadata=ann)).session.name
    absent = (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")
    turn = pb.RunTurnRequest(session=session, turn=pb.Turn(text="x"))
    assert await Stream(bench.stub.RunTurn(turn, metadata=bob)).failure() == absent
    stop = pb.CancelTurnRequest(session=session, turn_id="t")
    assert await refusal(bench.stub.CancelTurn(stop, metadata=bob)) == absent
    assert kinds(await Stream(bench.stub.RunTurn(turn, metadata=ann)).rest())[-1] == "finished"
