"""Sessions and engines through their own calls: looked up, listed, deleted, parked, expired, told apart by owner."""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from common.errors import SinkServeError
from runtime_service.sessions.live_session import LiveSession
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from sinkserve.runtime.v1 import conversation_service_pb2_grpc as conversation_grpc
from sinkserve.runtime.v1 import engine_service_pb2 as engine_pb
from sinkserve.runtime.v1 import engine_service_pb2_grpc as engine_grpc
from tests.service.runtime.runtime import (
    ENDLESS,
    GEOMETRY,
    Bench,
    Stream,
    eventually,
    reaper_passes,
    reason_of,
    tokens_of,
)


async def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), reason_of(caught.value)


def engines(bench: Bench) -> engine_grpc.EngineServiceAsyncStub:
    assert bench.channel is not None
    return engine_grpc.EngineServiceStub(bench.channel)


async def no_sessions(bench: Bench) -> bool:
    return not (await bench.stub.ListSessions(pb.ListSessionsRequest())).sessions


async def restarted(bench: Bench, **settings: Any) -> None:
    await bench.stop()
    bench.settings |= settings
    await bench.start()


async def test_a_session_can_be_looked_up(bench: Bench) -> None:
    stream = await bench.opened(session_id="mine", labels={"k": "v"})
    await stream.turn()
    position = (await stream.finished()).usage.position
    session = (await bench.stub.GetSession(pb.GetSessionRequest(name="sessions/mine"))).session
    assert (session.position, session.turns, session.labels["k"]) == (position, 1, "v")
    assert session.engine == "demo@1"
    assert session.state == pb.Session.STATE_RESIDENT
    assert not session.HasField("expire_time")
    assert session.last_active_time.ToDatetime() >= session.create_time.ToDatetime()


async def test_what_does_not_exist_is_not_found(bench: Bench) -> None:
    absent = (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")
    name = "sessions/none"
    assert await refusal(bench.stub.GetSession(pb.GetSessionRequest(name=name))) == absent
    assert await refusal(bench.stub.ListTurns(pb.ListTurnsRequest(session=name))) == absent
    assert await refusal(bench.stub.DeleteSession(pb.DeleteSessionRequest(name=name))) == absent
    wrong = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert await refusal(bench.stub.GetSession(pb.GetSessionRequest(name="none"))) == wrong
    assert await refusal(bench.stub.ListSessions(pb.ListSessionsRequest(page_size=-1))) == wrong
    assert await refusal(bench.stub.ListSessions(pb.ListSessionsRequest(page_token="x"))) == wrong


async def test_sessions_are_listed_by_pages_the_last_active_first(bench: Bench) -> None:
    streams = [await bench.opened(session_id=f"s{index}") for index in range(5)]
    await streams[1].turn()
    await streams[1].finished()
    names, token = [], ""
    while True:
        page = await bench.stub.ListSessions(pb.ListSessionsRequest(page_size=2, page_token=token))
        names += [session.name.removeprefix("sessions/") for session in page.sessions]
        token = page.next_page_token
        if not token:
            break
    assert names == ["s1", "s4", "s3", "s2", "s0"]


async def test_turns_are_listed_with_what_went_in_and_came_out(bench: Bench) -> None:
    stream = await bench.opened()
    await stream.turn("a", text="one")
    await stream.turn("b", token_ids=pb.TokenIds(ids=[5, 6]), no_reply=True)
    await stream.turn("c", messages=pb.ChatMessages(messages=[pb.ChatMessage(role="user", content="x")]))
    for _ in range(3):
        await stream.finished()
    await stream.turn("d", generation=ENDLESS)
    await stream.first_delta()
    first = await bench.stub.ListTurns(pb.ListTurnsRequest(session=stream.session, page_size=3))
    rest = await bench.stub.ListTurns(
        pb.ListTurnsRequest(session=stream.session, page_size=3, page_token=first.next_page_token)
    )
    a, b, c, d = (*first.turns, *rest.turns)
    assert not rest.next_page_token
    assert (a.turn_id, a.text, a.reason) == ("a", "one", pb.FINISH_REASON_LENGTH)
    assert a.reply
    assert a.usage.generated_tokens == 6
    assert (list(b.token_ids.ids), b.reason, b.reply) == ([5, 6], pb.FINISH_REASON_INPUT_ONLY, "")
    assert c.messages.messages[0].content == "x"
    assert (d.turn_id, d.reason) == ("d", pb.FINISH_REASON_UNSPECIFIED)
    assert d.HasField("create_time")
    assert not d.HasField("end_time")


async def test_a_turn_without_an_id_gets_one(bench: Bench) -> None:
    stream = await bench.opened()
    await stream.turn()
    turn_id = (await stream.finished()).turn_id
    turns = (await bench.stub.ListTurns(pb.ListTurnsRequest(session=stream.session))).turns
    assert [turn.turn_id for turn in turns] == [turn_id]
    assert len(turn_id) == 32


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
    await restarted(bench, max_sessions=2)
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
    await restarted(bench, max_sessions=2)
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
    await restarted(bench, max_replay_tokens=100)
    late = bench.stream()
    await late.send(open=pb.Open(session=stream.session))
    assert await late.failure() == (grpc.StatusCode.FAILED_PRECONDITION, "REPLAY_TOO_LONG")
    await restarted(bench, max_replay_tokens=121)
    await bench.resumed(stream.session)


async def test_a_session_is_deleted_when_nobody_spoke_to_it_for_long(bench: Bench) -> None:
    await restarted(bench, reap_s=0.02)
    soon = Duration()
    soon.FromMilliseconds(10)
    stream = await bench.opened(options=pb.SessionOptions(delete_after_idle_duration=soon))
    passes = reaper_passes(bench)
    assert [await passes.get() for _ in range(3)] == [0, 0, 0]
    session = (await bench.stub.GetSession(pb.GetSessionRequest(name=stream.session))).session  # a stream holds it
    assert not session.HasField("expire_time")
    await stream.half_close()
    await stream.rest()
    await eventually(partial(no_sessions, bench))
    assert not bench.handle.sessions.live


async def test_a_session_expires_although_its_server_died(bench: Bench) -> None:
    soon = Duration()
    soon.FromMilliseconds(50)
    await bench.opened(options=pb.SessionOptions(delete_after_idle_duration=soon))
    await restarted(bench, reap_s=0.02)
    await eventually(partial(no_sessions, bench))


async def test_owners_do_not_see_each_other(bench: Bench) -> None:
    await restarted(bench, principal_header="X-User")
    stream = bench.stream(metadata=(("x-user", "ann"),))
    await stream.open(session_id="mine")
    ann, bob = (("x-user", "ann"),), (("x-user", "bob"),)
    request = pb.GetSessionRequest(name="sessions/mine")
    assert (await bench.stub.GetSession(request, metadata=ann)).session.name == "sessions/mine"
    absent = (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")
    assert await refusal(bench.stub.GetSession(request, metadata=bob)) == absent
    assert not (await bench.stub.ListSessions(pb.ListSessionsRequest(), metadata=bob)).sessions
    other = bench.stream(metadata=bob)
    assert not (await other.open(session_id="mine")).resumed
    nameless = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert await refusal(bench.stub.GetSession(request)) == nameless


# Engines


async def test_engines_are_loaded_listed_and_unloaded(bench: Bench) -> None:
    bench.publish("other")
    loaded = (await engines(bench).LoadEngine(engine_pb.LoadEngineRequest(reference="other"))).engine
    assert (loaded.reference, loaded.cache.max_slots) == ("other@1", GEOMETRY.slots)
    again = (await engines(bench).LoadEngine(engine_pb.LoadEngineRequest(reference="other@1"))).engine
    assert again == loaded
    listed = await engines(bench).ListLoadedEngines(engine_pb.ListLoadedEnginesRequest())
    assert [engine.reference for engine in listed.engines] == ["demo@1", "other@1"]
    await engines(bench).UnloadEngine(engine_pb.UnloadEngineRequest(reference="other"))
    assert bench.engines[-1].closed
    unload = engines(bench).UnloadEngine(engine_pb.UnloadEngineRequest(reference="other"))
    assert await refusal(unload) == (grpc.StatusCode.FAILED_PRECONDITION, "ENGINE_NOT_LOADED")
    load = engines(bench).LoadEngine(engine_pb.LoadEngineRequest(reference="nobody"))
    assert await refusal(load) == (grpc.StatusCode.NOT_FOUND, "ENGINE_NOT_FOUND")


async def test_an_engine_that_runs_turns_is_not_unloaded_and_its_sessions_survive_it(bench: Bench) -> None:
    expected = await bench.said("one", "two")
    stream = await bench.opened()
    await stream.turn(text="one")
    await stream.finished()
    await stream.turn("t", text="long", generation=ENDLESS)
    await stream.first_delta()
    unload = engine_pb.UnloadEngineRequest(reference="demo")
    in_use = (grpc.StatusCode.FAILED_PRECONDITION, "ENGINE_IN_USE")
    assert await refusal(engines(bench).UnloadEngine(unload)) == in_use
    listed = (await engines(bench).ListLoadedEngines(engine_pb.ListLoadedEnginesRequest())).engines
    assert (listed[0].slots_in_use, listed[0].turns) == (2, 1)
    await stream.send(cancel=pb.CancelTurn(turn_id="t", discard=True))
    await stream.finished()
    await engines(bench).UnloadEngine(unload)
    assert await stream.failure() == (grpc.StatusCode.UNAVAILABLE, "ENGINE_NOT_LOADED")
    await engines(bench).LoadEngine(engine_pb.LoadEngineRequest(reference="demo"))
    back = await bench.resumed(stream.session)
    await back.turn(text="two")
    assert tokens_of(await back.until("finished")) == expected


async def test_an_engine_is_unloaded_although_its_sessions_are_deleted_meanwhile(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = [await bench.opened(session_id=name) for name in ("a", "b")]
    unload, deleting = LiveSession.unload, asyncio.Event()

    async def unload_slowly(
        live: LiveSession, error: SinkServeError | None = None, *, keep_cache: bool = False
    ) -> None:
        if live.session.session_id == "a" and not deleting.is_set():
            deleting.set()
            await bench.handle.sessions.delete(live.session.principal, "b")
        await unload(live, error, keep_cache=keep_cache)

    monkeypatch.setattr(LiveSession, "unload", unload_slowly)
    await engines(bench).UnloadEngine(engine_pb.UnloadEngineRequest(reference="demo"))
    assert await streams[0].failure() == (grpc.StatusCode.UNAVAILABLE, "ENGINE_NOT_LOADED")
    assert await streams[1].failure() == (grpc.StatusCode.ABORTED, "SESSION_DELETED")
    assert bench.engines[0].closed
    assert not bench.handle.sessions.live


async def test_an_engine_is_loaded_on_demand_where_that_is_allowed(bench: Bench) -> None:
    await restarted(bench, engines=(), load_on_demand=True)
    assert not bench.handle.engines.loaded
    streams = await asyncio.gather(*(bench.opened() for _ in range(5)))
    assert len(bench.handle.engines.loaded) == 1
    await streams[0].turn()
    await streams[0].finished()


async def test_a_session_that_comes_while_engines_load_waits_for_its_own(bench: Bench) -> None:
    await bench.stop()
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    bench.settings["listen"] = address
    bench.may_load.clear()
    starting = asyncio.create_task(bench.start())
    async with grpc.aio.insecure_channel(address) as channel:
        stream = Stream(conversation_grpc.ConversationServiceStub(channel).Converse(wait_for_ready=True))
        opening = asyncio.create_task(stream.open())
        done, _ = await asyncio.wait([opening], timeout=0.5)
        assert not done
        bench.may_load.set()
        assert (await opening).session.engine == "demo@1"
        await starting


async def test_an_engine_of_the_settings_that_does_not_exist_stops_the_start(bench: Bench) -> None:
    await bench.stop()
    bench.settings["engines"] = ("demo", "nobody")
    with pytest.raises(Exception, match="nobody"):
        await bench.start()
    assert bench.engines[-1].closed
