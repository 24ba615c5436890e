"""Cancel, deadline, disconnect: each stops the engine after the step that runs, counted and not timed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest

from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from sinkserve.runtime.v1 import conversation_service_pb2_grpc as pb_grpc
from tests.servers.flaky_proxy import FlakyProxy
from tests.service.runtime.runtime import ENDLESS, Bench, Stream, eventually

CANCELS = pb.SessionOptions(on_disconnect=pb.SessionOptions.ON_DISCONNECT_CANCEL)


class Gate:
    """Holds the engine inside one step, so that what is asked for meanwhile comes before the next."""

    def __init__(self, free_steps: int) -> None:
        self._free_steps = free_steps
        self._open = threading.Event()
        self.steps = 0
        self.held = threading.Event()

    def __call__(self, _feeds: object) -> None:
        self.steps += 1
        if self.steps > self._free_steps:
            self.held.set()
            self._open.wait()

    def open(self) -> None:
        self._open.set()


@asynccontextmanager
async def held_in_a_step(bench: Bench) -> AsyncIterator[Gate]:
    """The engine stands in its 6th step; afterwards that ends, and so does the turn, without another step."""
    gate = Gate(5)
    bench.before_step = gate
    try:
        yield gate
        assert gate.steps == 6
    finally:
        gate.open()
    await eventually_ended(bench)
    assert gate.steps == 6


async def eventually_ended(bench: Bench) -> None:
    async def nothing_runs() -> bool:
        return not bench.handle.engines.loaded[0].turns

    await eventually(nothing_runs)


async def no_stream_is_left(bench: Bench) -> None:
    async def nobody() -> bool:
        return not bench.handle.conversations.streams

    await eventually(nobody)


async def ended_as(bench: Bench, session: str) -> int:
    turns = (await bench.stub.ListTurns(pb.ListTurnsRequest(session=session))).turns
    return turns[-1].reason


@pytest.mark.parametrize("discard", [False, True])
async def test_a_cancel_on_the_stream(bench: Bench, discard: bool) -> None:
    stream = await bench.opened()
    live = bench.handle.sessions.live[0]
    async with held_in_a_step(bench) as gate:
        await stream.turn("t", generation=ENDLESS)
        await asyncio.to_thread(gate.held.wait)
        await stream.send(cancel=pb.CancelTurn(turn_id="t", discard=discard))

        async def told() -> bool:
            return live.turns.pending[0].discard is not None

        await eventually(told)
    assert (await stream.finished()).reason == pb.FINISH_REASON_CANCELLED


async def test_a_cancel_beside_the_stream(bench: Bench) -> None:
    stream = await bench.opened()
    async with held_in_a_step(bench) as gate:
        await stream.turn("t", generation=ENDLESS)
        await asyncio.to_thread(gate.held.wait)
        await bench.stub.CancelTurn(pb.CancelTurnRequest(session=stream.session, turn_id="t"))
    assert (await stream.finished()).reason == pb.FINISH_REASON_CANCELLED


async def test_a_cancelled_call(bench: Bench) -> None:
    stream = await bench.opened(options=CANCELS)
    async with held_in_a_step(bench) as gate:
        await stream.turn(generation=ENDLESS)
        await asyncio.to_thread(gate.held.wait)
        stream.call.cancel()
        await no_stream_is_left(bench)
    assert await ended_as(bench, stream.session) == pb.FINISH_REASON_CANCELLED


async def test_a_deadline(bench: Bench) -> None:
    stream = bench.stream(timeout=3.0)
    await stream.open(options=CANCELS)
    async with held_in_a_step(bench) as gate:
        await stream.turn(generation=ENDLESS)
        await asyncio.to_thread(gate.held.wait)
        assert (await stream.failure())[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        await no_stream_is_left(bench)
    assert await ended_as(bench, stream.session) == pb.FINISH_REASON_CANCELLED


async def test_a_cut_connection(bench: Bench) -> None:
    async with (
        held_in_a_step(bench) as gate,
        FlakyProxy(bench.handle.address, []) as proxy,
        grpc.aio.insecure_channel(proxy.address) as channel,
    ):
        stream = Stream(pb_grpc.ConversationServiceStub(channel).Converse())
        await stream.open(options=CANCELS)
        await stream.turn(generation=ENDLESS)
        await asyncio.to_thread(gate.held.wait)
        proxy.cut()
        await no_stream_is_left(bench)
    assert await ended_as(bench, stream.session) == pb.FINISH_REASON_CANCELLED


async def test_a_call_without_requests(bench: Bench) -> None:
    new = pb.NewSession(engine="demo", options=CANCELS)
    session = (await bench.stub.CreateSession(pb.CreateSessionRequest(new_session=new))).session
    turn = pb.Turn(text="hello", generation=pb.GenerationOptions(max_new_tokens=5000, ignore_eos=True))
    async with held_in_a_step(bench) as gate:
        call = Stream(bench.stub.RunTurn(pb.RunTurnRequest(session=session.name, turn=turn)))
        await asyncio.to_thread(gate.held.wait)
        call.call.cancel()
        await no_stream_is_left(bench)
    assert await ended_as(bench, session.name) == pb.FINISH_REASON_CANCELLED
