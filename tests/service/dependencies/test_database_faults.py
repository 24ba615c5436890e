"""The database fails in each way: who asks is told within the setting, and nothing is lost or done twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from sqlalchemy.engine import make_url

from builder_service.service import start_builder
from builder_service.settings import BuilderSettings
from common.settings import SharedSettings
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.samples.checkpoints import write_checkpoint
from tests.servers.databases import new_database_url
from tests.servers.faulty_proxy import Fault, FaultyProxy
from tests.service.builder.builder import BuilderClient
from tests.service.runtime.runtime import Bench

TIMEOUT_S, LEASE_S = 4.0, 2.0
T = TypeVar("T")
AWAY = [Fault.REFUSE, Fault.RESET, Fault.SILENCE, Fault.NONSENSE]


@pytest.fixture
async def proxy(tmp_path: Path) -> AsyncIterator[tuple[FaultyProxy, str]]:
    """Before a PostgreSQL, with the URL of a new database behind it."""
    with new_database_url("postgresql", tmp_path, with_schema=True) as url:
        place = make_url(url)
        async with FaultyProxy(f"{place.host}:{place.port or 5432}") as proxy:
            port = int(proxy.address.rpartition(":")[2])
            yield proxy, place.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)


@pytest.mark.long
async def test_a_runtime_says_so_refuses_and_goes_on(proxy: tuple[FaultyProxy, str], tmp_path: Path) -> None:
    between, url = proxy
    bench = Bench(tmp_path, {"lease_s": LEASE_S}, url, shared_settings={"database_timeout_s": TIMEOUT_S})
    await asyncio.to_thread(bench.publish)
    await bench.start()
    try:
        await _at_last(lambda: bench.opened(session_id="s"))
        said: list[str] = []
        for fault in (*AWAY, Fault.SLOW):
            await between.become(fault)
            said.append(await _said_at_last(bench, between, fault))
        turns = (await bench.stub.ListTurns(pb.ListTurnsRequest(session="sessions/s"))).turns
        assert [turn.turn_id for turn in turns] == said
        await between.become(Fault.SILENCE)
    finally:
        await bench.stop()  # whatever the database does


async def _said_at_last(bench: Bench, between: FaultyProxy, fault: Fault) -> str:
    """A turn that is refused while the database is away, and runs once when it is back."""
    request = pb.RunTurnRequest(session="sessions/s", turn=pb.Turn(turn_id=fault.value, text="text"))
    if fault in AWAY:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await _all(bench.stub.RunTurn(request))
        assert (refused.value.code(), _reason(refused.value)) == (grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE")
        await _readiness(bench, health_pb2.HealthCheckResponse.NOT_SERVING)
        await between.become(Fault.NONE)
        await _readiness(bench, health_pb2.HealthCheckResponse.SERVING)
    events = await _at_last(lambda: _all(bench.stub.RunTurn(request)))
    assert events[-1].HasField("finished")
    return fault.value


async def test_a_builder_refuses_and_takes_a_build_once(proxy: tuple[FaultyProxy, str], tmp_path: Path) -> None:
    between, url = proxy
    settings = BuilderSettings(listen="127.0.0.1:0", metrics_listen="", source_roots=(str(tmp_path),))
    shared = SharedSettings(home=tmp_path / "home", database_url=url, database_timeout_s=TIMEOUT_S)
    handle = await start_builder(settings, shared)
    try:
        async with grpc.aio.insecure_channel(handle.address) as channel:
            client = BuilderClient.on(channel, write_checkpoint(tmp_path / "model"))
            for fault in AWAY:
                await between.become(fault)
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await client.submit(request_id="the-one")
                assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
                await between.become(Fault.NONE)
            builds = {(await _at_last(lambda: client.submit(request_id="the-one"))).name for _ in range(2)}
            assert len(builds) == 1
    finally:
        await between.become(Fault.NONE)
        await handle.stop()


async def _at_last(ask: Callable[[], Awaitable[T]]) -> T:
    """What `ask` gets as soon as the database is back for the service too."""
    while True:
        try:
            return await ask()
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            await asyncio.sleep(0.1)


async def _readiness(bench: Bench, status: int) -> None:
    assert bench.channel is not None
    stub = health_pb2_grpc.HealthStub(bench.channel)
    async for answer in stub.Watch(health_pb2.HealthCheckRequest(service="readiness")):
        if answer.status == status:
            return


async def _all(call: AsyncIterable[pb.ConverseResponse]) -> list[pb.ConverseResponse]:
    return [event async for event in call]


def _reason(error: grpc.aio.AioRpcError) -> str:
    status = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    assert status is not None
    assert status.details[0].Unpack(info)
    return str(info.reason)
