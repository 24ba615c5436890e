"""Clients that come and go, and clients that do not read: nothing is left of them."""

from __future__ import annotations

import asyncio
import random
import threading

import grpc

from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.service.runtime.options import CANCELS
from tests.service.runtime.runtime import ENDLESS, Bench, Stream, tokens_of
from tests.service.runtime.waits import quiet, settled, slowly


async def test_a_hundred_clients_that_come_and_go_leave_nothing_behind(bench: Bench) -> None:
    bench.before_step = slowly
    dice = random.Random(7)
    tasks, threads = len(asyncio.all_tasks()), threading.active_count()

    async def visit(number: int) -> None:
        stream = bench.stream()
        try:
            await stream.open(session_id=f"visitor-{number}", options=CANCELS)
            for _ in range(dice.randrange(3)):
                await stream.turn(generation={"max_new_tokens": dice.randrange(1, 200), "ignore_eos": True})
            for _ in range(dice.randrange(6)):
                await asyncio.wait_for(stream.next(), dice.random() / 4)
            if dice.random() < 0.3:
                await stream.send(close=pb.Close(delete_session=True))
                await asyncio.wait_for(stream.rest(), dice.random() / 4)
        except TimeoutError:
            pass
        finally:
            stream.call.cancel()

    for _ in range(10):
        visitors = [asyncio.create_task(visit(dice.randrange(60))) for _ in range(10)]
        for visitor in dice.sample(visitors, 3):
            asyncio.get_running_loop().call_later(dice.random() / 5, visitor.cancel)
        await asyncio.gather(*visitors, return_exceptions=True)
    await quiet(bench)
    await asyncio.sleep(0.05)
    assert not any(live.busy for live in bench.handle.sessions.live)
    assert len(asyncio.all_tasks()) <= tasks
    assert threading.active_count() <= threads + 8  # of the pool that asyncio keeps
    steps = len(bench.engines[0].steps)
    await asyncio.sleep(0.05)
    assert len(bench.engines[0].steps) == steps


async def test_a_client_that_does_not_read_pauses_its_own_turn_and_then_loses_its_stream(bench: Bench) -> None:
    await bench.stop()
    bench.settings |= {"unread_events": 4, "slow_reader_s": 0.4}
    await bench.start()
    options = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024))
    async with grpc.aio.insecure_channel(bench.handle.address, options=options) as narrow:
        call = narrow.stream_stream(
            "/sinkserve.runtime.v1.ConversationService/Converse",
            request_serializer=pb.ConverseRequest.SerializeToString,
            response_deserializer=pb.ConverseResponse.FromString,
        )()
        deaf = Stream(call)
        await deaf.open(options=CANCELS)
        await deaf.turn(generation={**ENDLESS, "logprobs": 20})
        other = await bench.opened()
        await other.turn()
        await other.finished()
        assert (await settled(bench, deaf.session)).reason == pb.FINISH_REASON_CANCELLED
        assert await deaf.failure() == (grpc.StatusCode.RESOURCE_EXHAUSTED, "READER_TOO_SLOW")
        generated = len(tokens_of(deaf.events))
        assert generated < 5000
