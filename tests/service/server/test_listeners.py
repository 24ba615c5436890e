"""Administration is answered at the admin listener alone; readiness says whether all engines are there."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from builder_service.service import BuilderHandle
from common.settings import SettingsError, SharedSettings
from runtime_service.service import start_runtime
from runtime_service.settings import RuntimeSettings
from sinkserve.builder.v1 import builder_service_pb2 as build_pb
from sinkserve.builder.v1 import catalog_service_pb2 as catalog_pb
from sinkserve.builder.v1.builder_service_pb2_grpc import BuilderServiceStub
from sinkserve.builder.v1.catalog_service_pb2_grpc import CatalogServiceStub
from sinkserve.client import Client, FailedPrecondition, PermissionDenied
from sinkserve.client.settings import ClientSettings
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from sinkserve.runtime.v1 import engine_service_pb2 as engine_pb
from sinkserve.runtime.v1.engine_service_pb2_grpc import EngineServiceStub
from tests.service.builder.builder import refused
from tests.service.runtime.runtime import ENDLESS, Bench, eventually

ANYWHERE = "127.0.0.1:0"


def administration(channel: grpc.aio.Channel) -> dict[str, Any]:
    """Every call that changes something for all, by its name in the message of a refusal."""
    builds, catalog, engines = BuilderServiceStub(channel), CatalogServiceStub(channel), EngineServiceStub(channel)
    return {
        "BuilderService.CancelBuild": lambda: builds.CancelBuild(build_pb.CancelBuildRequest(name="builds/x")),
        "CatalogService.DeleteEngine": lambda: catalog.DeleteEngine(catalog_pb.DeleteEngineRequest(reference="a@1")),
        "CatalogService.SetAlias": lambda: catalog.SetAlias(catalog_pb.SetAliasRequest(reference="a", alias="b")),
        "CatalogService.DeleteAlias": lambda: catalog.DeleteAlias(catalog_pb.DeleteAliasRequest(name="a", alias="b")),
        "CatalogService.CollectGarbage": lambda: catalog.CollectGarbage(catalog_pb.CollectGarbageRequest()),
        "EngineService.LoadEngine": lambda: engines.LoadEngine(engine_pb.LoadEngineRequest(reference="demo")),
        "EngineService.UnloadEngine": lambda: engines.UnloadEngine(engine_pb.UnloadEngineRequest(reference="demo")),
    }


async def test_administration_is_refused_at_the_public_listeners(bench: Bench, builder: BuilderHandle) -> None:
    for address, service in ((bench.handle.address, "RUNTIME"), (builder.address, "BUILDER")):
        async with grpc.aio.insecure_channel(address) as channel:
            calls = administration(channel)
            for name in (name for name in calls if name.startswith("Engine") == (service == "RUNTIME")):
                refusal = await refused(calls[name]())
                assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "WRONG_LISTENER")
                assert refusal.message.startswith(f"{name} is administration")
                assert f"SINKSERVE_{service}_ADMIN_LISTEN" in refusal.message
                assert "loopback" in refusal.message
    assert bench.handle.engines.loaded, "nothing was unloaded"


async def test_a_client_needs_to_know_where_administration_is(bench: Bench) -> None:
    runtime, admin = bench.handle.address, bench.handle.admin_address
    async with Client(runtime, "127.0.0.1:1") as client:
        assert [engine.reference for engine in await client.engines.loaded()] == ["demo@1"]
        with pytest.raises(FailedPrecondition, match="SINKSERVE_CLIENT_RUNTIME_ADMIN"):
            await client.engines.unload("demo")
    async with Client(runtime, "127.0.0.1:1", runtime_admin=runtime) as client:
        with pytest.raises(PermissionDenied, match="SINKSERVE_RUNTIME_ADMIN_LISTEN"):
            await client.engines.unload("demo")
    async with Client(runtime, "127.0.0.1:1", runtime_admin=admin) as client:
        await client.engines.unload("demo")
        assert await client.engines.loaded() == ()


def test_an_admin_address_belongs_to_the_service_that_it_was_given_with(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ClientSettings.load().admin_of("runtime") == "127.0.0.1:50072"
    monkeypatch.setenv("SINKSERVE_CLIENT_RUNTIME", "elsewhere:50071")
    assert ClientSettings.load().admin_of("runtime") == "", "not this machine's"
    monkeypatch.setenv("SINKSERVE_CLIENT_RUNTIME_ADMIN", "elsewhere:1")
    assert ClientSettings.load().admin_of("runtime") == "elsewhere:1"


@pytest.fixture
async def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    """A runtime with health over HTTP."""
    monkeypatch.setenv("SINKSERVE_RUNTIME_METRICS_LISTEN", ANYWHERE)
    bench = Bench(tmp_path, {})
    bench.publish()
    await bench.start()
    yield bench
    await bench.stop()


async def test_a_replica_without_an_engine_of_its_settings_is_not_ready(watched: Bench) -> None:
    assert watched.admin is not None
    engines: Any = EngineServiceStub(watched.admin)
    assert await _readiness(watched) == ("SERVING", 200)
    await engines.UnloadEngine(engine_pb.UnloadEngineRequest(reference="demo"))
    assert await _readiness(watched) == ("NOT_SERVING", 503)
    watched.publish("other")
    await engines.LoadEngine(engine_pb.LoadEngineRequest(reference="other"))
    assert await _readiness(watched) == ("NOT_SERVING", 503), "another one does not stand in for it"
    await engines.LoadEngine(engine_pb.LoadEngineRequest(reference="demo"))
    assert await _readiness(watched) == ("SERVING", 200)
    await engines.UnloadEngine(engine_pb.UnloadEngineRequest(reference="other"))
    assert await _readiness(watched) == ("SERVING", 200), "nobody has asked for it in the settings"


async def test_a_replica_that_drains_is_alive_and_not_ready(watched: Bench) -> None:
    handle = watched.handle
    statuses: list[int] = []
    stream = await watched.opened()
    await stream.turn("endless", generation=ENDLESS)
    await stream.until("started")
    stopping = asyncio.create_task(handle.stop())

    async def is_not_ready() -> bool:
        statuses[:] = [await asyncio.to_thread(_status, handle.metrics.address, page) for page in ("readyz", "livez")]
        return bool(statuses[0] == 503)

    await eventually(is_not_ready)
    assert statuses == [503, 200]
    watched.runtime = None
    await stream.send(cancel=pb.CancelTurn(turn_id="endless"))
    await stopping


async def _readiness(bench: Bench) -> tuple[str, int]:
    """What gRPC says of it, at both listeners, and HTTP."""
    said = set()
    for channel in (bench.channel, bench.admin):
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service="readiness"))
        said.add(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
    (only,) = said
    return only, await asyncio.to_thread(_status, bench.handle.metrics.address, "readyz")


def _status(address: str, page: str) -> int:
    try:
        with urllib.request.urlopen(f"http://{address}/{page}") as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


async def test_none_answers_administration_nowhere(tmp_path: Path) -> None:
    settings = RuntimeSettings(listen=ANYWHERE, admin_listen="none")
    runtime = await start_runtime(settings, SharedSettings(home=tmp_path))
    assert runtime.admin_address == ""
    async with grpc.aio.insecure_channel(runtime.address) as channel:
        assert "none" in (await refused(administration(channel)["EngineService.LoadEngine"]())).message
    await runtime.stop()


@pytest.mark.parametrize("value", ["50072", "localhost:http"])
def test_an_admin_address_that_is_none_names_its_setting(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SINKSERVE_RUNTIME_ADMIN_LISTEN", value)
    with pytest.raises(SettingsError, match=f"SINKSERVE_RUNTIME_ADMIN_LISTEN.*'{value}' is not HOST:PORT"):
        RuntimeSettings.load()


async def test_an_admin_address_in_use_names_its_setting(tmp_path: Path, bench: Bench) -> None:
    settings = RuntimeSettings(listen=ANYWHERE, admin_listen=bench.handle.address)
    with pytest.raises(OSError, match=f"^SINKSERVE_RUNTIME_ADMIN_LISTEN: cannot listen on {bench.handle.address}"):
        await start_runtime(settings, SharedSettings(home=tmp_path / "other"))
