"""More sessions than there is room for: who is parked, who makes room, who is refused."""

from __future__ import annotations

import grpc

from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.service.runtime.runtime import GEOMETRY, Bench, tokens_of


async def test_more_sessions_than_slots_take_turns(bench: Bench) -> None:
    expected = await bench.said("one", "two")
    streams = [await bench.opened() for _ in range(GEOMETRY.slots + 2)]
    for stream in streams:
        await stream.turn(text="one")
    for stream in streams:
        await stream.finished()
    states = [
        (await bench.stub.GetSession(pb.GetSessionRequest(name=stream.session))).session.state for stream in streams
    ]
    assert states.count(pb.Session.STATE_PARKED) == 2
    for stream in streams:
        await stream.turn(text="two")
    for stream in streams:
        assert tokens_of(await stream.until("finished")) == expected


async def test_idle_sessions_make_room_and_come_back_from_their_tokens(bench: Bench) -> None:
    expected = await bench.said("one", "two")
    await bench.restart(max_sessions=2)
    names = []
    for _ in range(4):
        stream = await bench.opened()
        await stream.turn(text="one")
        await stream.half_close()
        await stream.rest()
        names.append(stream.session)
    assert len(bench.handle.sessions.live) == 2
    for name in names:
        back = await bench.resumed(name)
        await back.turn(text="two")
        assert tokens_of(await back.until("finished")) == expected
        await back.half_close()
        await back.rest()


async def test_no_more_sessions_are_taken_than_may_be_in_use(bench: Bench) -> None:
    await bench.restart(max_sessions=2)
    streams = [await bench.opened() for _ in range(2)]
    third = bench.stream()
    await third.send(open=pb.Open(new_session=pb.NewSession(engine="demo")))
    assert await third.failure() == (grpc.StatusCode.RESOURCE_EXHAUSTED, "CAPACITY_EXHAUSTED")
    await streams[0].half_close()
    await streams[0].rest()
    await bench.opened()


async def test_a_replay_that_is_too_long_is_refused_when_the_session_is_opened(bench: Bench) -> None:
    stream = await bench.opened()
    for _ in range(2):
        await stream.turn(token_ids=pb.TokenIds(ids=[5] * 60), no_reply=True)
        await stream.finished()
    await bench.restart(max_replay_tokens=100)
    late = bench.stream()
    await late.send(open=pb.Open(session=stream.session))
    assert await late.failure() == (grpc.StatusCode.FAILED_PRECONDITION, "REPLAY_TOO_LONG")
    await bench.restart(max_replay_tokens=121)
    await bench.resumed(stream.session)
