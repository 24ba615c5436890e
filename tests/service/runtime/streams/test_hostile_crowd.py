"""Clients that ask for much and do not read, beside one that does: it gets a slot, and they lose nothing but time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest

from runtime_service.sessions.live_session import LiveSession
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from sinkserve.runtime.v1 import conversation_service_pb2_grpc as pb_grpc
from tests.service.runtime.runtime import GEOMETRY, Bench, Stream, eventually, tokens_of

NARROW = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024))
MUCH = {"max_new_tokens": 300, "logprobs": 20, "ignore_eos": True}


@asynccontextmanager
async def absent_readers(bench: Bench, count: int) -> AsyncIterator[list[Stream]]:
    """Streams that have asked for much, all of which are paused."""
    async with grpc.aio.insecure_channel(bench.handle.address, options=NARROW) as channel:
        stub = pb_grpc.ConversationServiceStub(channel)
        streams = [Stream(stub.Converse()) for _ in range(count)]
        for stream in streams:
            await stream.open()
            await stream.turn("much", generation=MUCH)
        for stream in streams:
            await paused(bench, stream)
        yield streams


async def paused(bench: Bench, stream: Stream) -> None:
    async def is_paused() -> bool:
        return session_of(bench, stream).state.tenant.paused

    await eventually(is_paused)


def session_of(bench: Bench, stream: Stream) -> LiveSession:
    return next(live for live in bench.handle.sessions.live if live.session.name == stream.session)


@pytest.mark.long
async def test_who_reads_gets_a_slot_while_more_absent_readers_than_slots_hold_none(bench: Bench) -> None:
    await bench.restart(unread_events=4, slow_reader_s=3600.0)
    alone = await bench.opened()
    expected = await alone.said("much", generation={**MUCH, "logprobs": 0})
    await alone.half_close()
    async with absent_readers(bench, GEOMETRY.slots + 2) as absent:
        reader = await bench.opened()
        for _ in range(3):
            await reader.turn()
            assert (await reader.finished()).reason != pb.FINISH_REASON_ERROR
        assert sum(session_of(bench, stream).running_turns for stream in absent) == 0
        for said in await asyncio.gather(*(stream.until("finished") for stream in absent)):
            assert tokens_of(said) == expected


async def test_turns_of_absent_readers_can_be_cancelled_and_discarded(bench: Bench) -> None:
    await bench.restart(unread_events=4, slow_reader_s=3600.0, parked_bytes=0)
    expected = await bench.said("hello")
    async with absent_readers(bench, GEOMETRY.slots) as absent:
        reader = await bench.opened()
        await reader.turn()
        await reader.finished()
        for stream in absent:
            cancel = pb.CancelTurnRequest(session=stream.session, turn_id="much", discard=True)
            await bench.stub.CancelTurn(cancel)
        for stream in absent:
            assert (await stream.finished()).reason == pb.FINISH_REASON_CANCELLED
            assert await stream.said("next", text="hello") == expected
