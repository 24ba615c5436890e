"""Streams that have grown old: told to go away between turns, left by clients without a word to their users."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from sinkserve.client import Client
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from sinkserve.runtime.v1 import conversation_service_pb2_grpc as pb_grpc
from tests.servers.flaky_proxy import FlakyProxy
from tests.service.runtime.runtime import Bench, Stream, info, kinds, reason_of
from tests.service.runtime.streams.test_stopping_within_a_step import Gate

LONG = {"max_new_tokens": 20, "ignore_eos": True}
OLD_S = 0.2  # more than an age of 0.1 s with its jitter


@pytest.fixture
async def aging(bench: Bench) -> Bench:
    """Streams grow old at once, and may stay for long."""
    await restart(bench, max_stream_age_s=0.1)
    return bench


async def restart(bench: Bench, **settings: float) -> None:
    await bench.stop()
    bench.settings |= settings
    await bench.start()


async def test_a_stream_without_a_turn_is_told_at_once(aging: Bench) -> None:
    stream = await aging.opened()
    told = await stream.next()
    assert told.WhichOneof("event") == "go_away"
    assert told.go_away.grace_duration.seconds == 30
    await stream.half_close()
    assert await stream.rest() == []


async def test_a_stream_is_never_told_in_a_turn(aging: Bench) -> None:
    gate = aging.before_step = Gate(0)
    stream = await aging.opened()
    await stream.turn("a", generation=LONG)
    await stream.turn("b", generation=LONG)
    await asyncio.to_thread(gate.held.wait)
    await asyncio.sleep(OLD_S)
    gate.open()
    events = await stream.until("finished")
    assert "go_away" not in kinds(events)
    assert (await stream.next()).WhichOneof("event") == "go_away"
    after = await stream.until("finished")
    assert after[-1].finished.turn_id == "b"
    assert "go_away" not in kinds(after)


async def test_a_turn_that_comes_after_go_away_is_refused_and_runs_on_the_next_stream(aging: Bench) -> None:
    stream = await aging.opened()
    await stream.until("go_away")
    await stream.turn("late")
    assert info((await stream.rejected()).error).reason == "DRAINING"
    await stream.half_close()
    assert await stream.rest() == []
    back = await aging.resumed(stream.session)
    await back.turn("late")
    assert (await back.finished()).turn_id == "late"


async def test_a_client_that_stays_is_sent_away_but_not_in_a_turn(bench: Bench) -> None:
    await restart(bench, max_stream_age_s=0.1, stream_leave_s=0.1)
    gate = bench.before_step = Gate(0)
    stream = await bench.opened()
    await stream.turn("a", generation=LONG)
    await stream.turn("b", generation=LONG)
    await asyncio.to_thread(gate.held.wait)
    await asyncio.sleep(OLD_S)
    gate.open()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stream.rest()
    assert (caught.value.code(), reason_of(caught.value)) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    ended = [(event.finished.turn_id, event.finished.reason) for event in stream.events if event.HasField("finished")]
    assert ended == [("a", pb.FINISH_REASON_LENGTH), ("b", pb.FINISH_REASON_LENGTH)]


async def test_a_call_for_one_turn_does_not_grow_old(aging: Bench) -> None:
    gate = aging.before_step = Gate(0)
    new = pb.CreateSessionRequest(new_session=pb.NewSession(engine="demo"))
    session = (await aging.stub.CreateSession(new)).session
    turn = pb.Turn(text="hello", generation=pb.GenerationOptions(max_new_tokens=3, ignore_eos=True))
    call = Stream(aging.stub.RunTurn(pb.RunTurnRequest(session=session.name, turn=turn)))
    await asyncio.to_thread(gate.held.wait)
    await asyncio.sleep(OLD_S)
    gate.open()
    assert "go_away" not in kinds(await call.rest())


async def test_streams_do_not_grow_old_by_default(bench: Bench) -> None:
    stream = await bench.opened()
    await asyncio.sleep(OLD_S)
    await stream.turn("t")
    assert "go_away" not in kinds(await stream.until("finished"))


async def test_the_sdk_goes_on_as_if_nothing_had_been_and_on_a_new_connection(aging: Bench) -> None:
    async with FlakyProxy(aging.handle.address, []) as proxy, Client(proxy.address) as client:
        async with client.conversation("demo") as conversation:
            for number in range(6):
                turn = await conversation.say(f"turn {number}", max_new_tokens=3, ignore_eos=True)
                assert (await turn.wait()).usage.generated_tokens == 3
                await asyncio.sleep(OLD_S)
            session = conversation.session.name
        assert (await client.sessions.get(session)).turns == 6
        assert proxy.connections > 1


async def test_the_sdk_keeps_turns_that_wait_in_order(aging: Bench) -> None:
    gate = aging.before_step = Gate(0)
    async with Client(aging.handle.address) as client, client.conversation("demo") as conversation:
        turns = [await conversation.say(f"turn {number}", max_new_tokens=3, ignore_eos=True) for number in range(12)]
        await asyncio.to_thread(gate.held.wait)
        await asyncio.sleep(OLD_S)
        gate.open()
        positions = [(await turn.wait()).usage.position for turn in turns]
        assert positions == sorted(set(positions))
        session = conversation.session.name
    async with grpc.aio.insecure_channel(aging.handle.address) as channel:
        listed = await pb_grpc.ConversationServiceStub(channel).ListTurns(pb.ListTurnsRequest(session=session))
    assert [turn.turn_id for turn in listed.turns] == [turn.id for turn in turns]
