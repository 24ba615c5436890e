"""Engines that are loaded, followed and unloaded while conversations run on them."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from common.catalog.aliases import Aliases
from common.db.schema import open_database
from sinkserve.client import Client, Retry
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from sinkserve.runtime.v1 import engine_service_pb2 as engine_pb
from sinkserve.runtime.v1 import engine_service_pb2_grpc as engine_grpc
from tests.service.runtime.runtime import ENDLESS, Bench, Stream, eventually, info, reason_of

WAIT = engine_pb.UnloadEngineRequest.WHEN_BUSY_WAIT
NOBODY = "127.0.0.1:1"
EVICT = engine_pb.UnloadEngineRequest.WHEN_BUSY_EVICT


def _engines(bench: Bench) -> engine_grpc.EngineServiceAsyncStub:
    assert bench.admin is not None
    return engine_grpc.EngineServiceStub(bench.admin)


async def _running(bench: Bench, **new_session: Any) -> Stream:
    stream = await bench.opened(**new_session)
    await stream.turn("1", generation=ENDLESS)
    await stream.first_delta()
    return stream


async def test_an_unload_that_waits_lets_turns_finish_and_takes_no_others(bench: Bench) -> None:
    stream = await _running(bench)
    await stream.turn("2")
    await stream.turn("wrong", generation={"temperature": -1})
    assert (await stream.rejected()).turn_id == "wrong"  # so the one before it has been taken
    waiting = asyncio.create_task(_unload(bench, WAIT))

    async def closed() -> bool:
        return not bench.handle.engines.loaded

    await eventually(closed)
    await stream.turn("3")
    rejected = await stream.rejected()
    assert (rejected.turn_id, info(rejected.error).metadata["retry"]) == ("3", "reopen")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await bench.opened()
    assert reason_of(caught.value) == "ENGINE_NOT_LOADED"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _engines(bench).LoadEngine(engine_pb.LoadEngineRequest(reference="demo"))
    assert (caught.value.code(), reason_of(caught.value)) == (grpc.StatusCode.UNAVAILABLE, "ENGINE_NOT_LOADED")
    assert not waiting.done()
    await stream.send(cancel=pb.CancelTurn(turn_id="1"))
    assert (await stream.finished()).reason == pb.FINISH_REASON_CANCELLED
    assert (await stream.finished()).turn_id == "2"
    await waiting
    assert bench.engines[0].closed
    assert await stream.failure() == (grpc.StatusCode.UNAVAILABLE, "ENGINE_NOT_LOADED")


async def test_a_turn_that_an_unload_refuses_runs_when_the_engine_is_back(bench: Bench) -> None:
    await bench.stop()
    bench.settings["load_on_demand"] = True
    await bench.start()
    async with (
        Client(bench.handle.address, NOBODY, retry=Retry(first_s=0.001, longest_s=0.01)) as client,
        client.conversation("demo") as conversation,
    ):
        first = await conversation.say("one", max_new_tokens=5000, ignore_eos=True)
        await anext(aiter(first))
        waiting = asyncio.create_task(_unload(bench, WAIT))

        async def closed() -> bool:
            return not bench.handle.engines.loaded

        await eventually(closed)
        second = await conversation.say("two", max_new_tokens=3)
        await first.cancel()
        await waiting
        await second.wait()
    assert second.text


async def test_an_unload_that_evicts_stops_turns_which_start_again_later(bench: Bench) -> None:
    stream = await _running(bench, session_id="s")
    await _unload(bench, EVICT)
    assert bench.engines[0].closed
    assert await stream.failure() == (grpc.StatusCode.UNAVAILABLE, "ENGINE_NOT_LOADED")
    await _engines(bench).LoadEngine(engine_pb.LoadEngineRequest(reference="demo"))
    again = await bench.resumed("sessions/s", after_sequence=stream.events[-1].sequence)
    assert (await again.until("started"))[-1].started.attempt == 2
    await again.send(cancel=pb.CancelTurn(turn_id="1"))
    await again.finished()


async def test_a_way_that_is_not_known_is_named(bench: Bench) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _unload(bench, 9)
    assert (caught.value.code(), "when_busy is 9" in (caught.value.details() or "")) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        True,
    )
    assert bench.handle.engines.loaded


async def _unload(bench: Bench, when_busy: Any) -> None:
    await _engines(bench).UnloadEngine(engine_pb.UnloadEngineRequest(reference="demo", when_busy=when_busy))


async def test_new_sessions_follow_an_alias_and_old_ones_stay(bench: Bench) -> None:
    _alias(bench, "demo@1")
    await bench.restart(engines=("demo:prod",), follow_s=0.1)
    old = Stream(bench.stub.Converse())
    await old.open("demo:prod", session_id="old")
    bench.publish()
    assert (await Stream(bench.stub.Converse()).open("demo:prod")).session.engine == "demo@1"
    _alias(bench, "demo@2")

    async def followed() -> bool:
        return (await Stream(bench.stub.Converse()).open("demo:prod")).session.engine == "demo@2"

    await eventually(followed)
    await old.turn("1")
    await old.finished()
    loaded = await _engines(bench).ListLoadedEngines(engine_pb.ListLoadedEnginesRequest())
    assert [engine.reference for engine in loaded.engines] == ["demo@1", "demo@2"]
    kept = await bench.stub.GetSession(pb.GetSessionRequest(name="sessions/old"))
    assert kept.session.engine == "demo@1"


async def test_until_another_version_is_loaded_new_sessions_get_the_one_before(bench: Bench) -> None:
    await bench.restart(engines=("demo",), follow_s=0.1)
    bench.may_load.clear()
    bench.loads.clear()
    bench.publish()
    await asyncio.to_thread(bench.loads.wait)
    assert (await Stream(bench.stub.Converse()).open("demo")).session.engine == "demo@1"
    bench.may_load.set()

    async def followed() -> bool:
        return (await Stream(bench.stub.Converse()).open("demo:latest")).session.engine == "demo@2"

    await eventually(followed)


async def test_more_turns_than_may_wait_are_refused_and_told_when_to_come(bench: Bench) -> None:
    await bench.restart(waiting_turns=1)
    busy = [await _running(bench) for _ in range(4)]
    waits = await bench.opened()
    await waits.turn("1")
    late = await bench.opened()
    await _counted(bench, 5)
    await late.turn("1")
    error = (await late.rejected()).error
    assert error.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert any(detail.type_url.endswith("RetryInfo") for detail in error.details)
    await busy[0].send(cancel=pb.CancelTurn(turn_id="1"))
    await waits.finished()
    await late.turn("1")
    await late.finished()


async def _counted(bench: Bench, turns: int) -> None:
    async def as_many() -> bool:
        loaded = await _engines(bench).ListLoadedEngines(engine_pb.ListLoadedEnginesRequest())
        return loaded.engines[0].turns == turns

    await eventually(as_many)


def _alias(bench: Bench, reference: str) -> None:
    database = open_database(bench.shared.database)
    Aliases(database).set(reference, "prod")
    database.close()
