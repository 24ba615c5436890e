"""How a stream ends, over a real socket: by its client, by the end of its session, or not while it is silent."""

from __future__ import annotations

import asyncio
import threading

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from runtime_service.api.stream import ConversationStream
from runtime_service.domain.turn import Turn
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.service.runtime.runtime import ENDLESS, Bench, eventually, kinds


async def test_a_stream_that_took_over_ends_when_the_turn_before_it_was_only_sent_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    hour = pb.SessionOptions(delete_after_idle_duration=Duration(seconds=3600))
    first = await bench.opened(options=hour)
    await first.turn("t")
    await first.finished()
    asked, answer, half_closed = asyncio.Event(), threading.Event(), asyncio.Event()
    loop, repository, no_more = asyncio.get_running_loop(), bench.handle.shared.repository, ConversationStream.no_more
    find_turn = repository.find_turn

    def slow_find(key: int, turn_id: str) -> Turn | None:
        loop.call_soon_threadsafe(asked.set)
        answer.wait(20)
        return find_turn(key, turn_id)

    def noted(conversation: ConversationStream) -> None:
        no_more(conversation)
        half_closed.set()

    monkeypatch.setattr(repository, "find_turn", slow_find)
    monkeypatch.setattr(ConversationStream, "no_more", noted)
    await first.turn("t")
    await asked.wait()
    second = await bench.resumed(first.session)
    await second.half_close()
    await half_closed.wait()
    answer.set()
    assert await second.rest() == []

    async def expires() -> bool:
        session = (await bench.stub.GetSession(pb.GetSessionRequest(name=first.session))).session
        return session.HasField("expire_time")

    await eventually(expires)


async def test_after_a_half_close_accepted_turns_finish_and_the_session_lives(bench: Bench) -> None:
    stream = await bench.opened()
    for turn in ("a", "b", "c"):
        await stream.turn(turn)
    await stream.half_close()
    finished = [event.finished.turn_id for event in await stream.rest() if event.HasField("finished")]
    assert finished == ["a", "b", "c"]
    assert (await bench.stub.GetSession(pb.GetSessionRequest(name=stream.session))).session.turns == 3


async def test_close_ends_the_stream_after_the_turns_and_may_delete_the_session(bench: Bench) -> None:
    stream = await bench.opened()
    await stream.turn("a")
    await stream.send(close=pb.Close(delete_session=True))
    assert kinds(await stream.rest())[-1] == "finished"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await bench.stub.GetSession(pb.GetSessionRequest(name=stream.session))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_stream_that_never_opens_anything_ends_well(bench: Bench) -> None:
    stream = bench.stream()
    await stream.half_close()
    assert await stream.rest() == []


async def test_deleting_a_session_ends_its_stream_and_its_turn(bench: Bench) -> None:
    stream = await bench.opened()
    await stream.turn(generation=ENDLESS)
    await stream.first_delta()
    await bench.stub.DeleteSession(pb.DeleteSessionRequest(name=stream.session))
    assert await stream.failure() == (grpc.StatusCode.ABORTED, "SESSION_DELETED")
    assert bench.handle.engines.loaded[0].slots_in_use == 0


async def test_a_silent_stream_gets_heartbeats(bench: Bench) -> None:
    await bench.stop()
    bench.settings["heartbeat_s"] = 0.05
    await bench.start()
    stream = await bench.opened()
    assert kinds([await stream.next(), await stream.next()]) == ["heartbeat"] * 2
