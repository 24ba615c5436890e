"""Engines through their own calls: loaded, listed, unloaded, and loaded on demand."""

from __future__ import annotations

import asyncio
import socket

import grpc
import pytest

from common.errors import SinkServeError
from runtime_service.sessions.live_session import LiveSession
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from sinkserve.runtime.v1 import conversation_service_pb2_grpc as conversation_grpc
from sinkserve.runtime.v1 import engine_service_pb2 as engine_pb
from sinkserve.runtime.v1 import engine_service_pb2_grpc as engine_grpc
from tests.service.runtime.runtime import ENDLESS, GEOMETRY, Bench, Stream, refusal, tokens_of


def engines(bench: Bench) -> engine_grpc.EngineServiceAsyncStub:
    assert bench.admin is not None
    return engine_grpc.EngineServiceStub(bench.admin)


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
    await bench.restart(engines=(), load_on_demand=True)
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
