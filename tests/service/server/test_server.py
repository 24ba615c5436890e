"""The server as both services run it, over real sockets."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_status import rpc_status
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from common.errors import NotFound, Reason
from common.rpc.calls.call_log import CallLog
from common.rpc.server import REFLECTION_V1, Registration, RunningServer, start_server
from sinkserve.builder.v1 import builder_service_pb2 as pb
from sinkserve.builder.v1 import builder_service_pb2_grpc as pb_grpc
from tests.fakes.panic import panic

SERVICE = "sinkserve.builder.v1.BuilderService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class _Builder(pb_grpc.BuilderServiceServicer):
    async def GetBuild(self, request: pb.GetBuildRequest, context: Any) -> pb.GetBuildResponse:
        if request.name == "bug":
            raise ValueError("the password is hunter2")
        if request.name == "panic":
            panic()
        if request.name == "abort":
            await context.abort(grpc.StatusCode.ABORTED, "as gRPC has it")
        if request.name == "endless":
            await asyncio.Event().wait()
        raise NotFound(Reason.BUILD_NOT_FOUND, f"no build {request.name!r}")

    async def WatchBuild(self, request: pb.WatchBuildRequest, context: Any) -> AsyncIterator[pb.WatchBuildResponse]:
        yield pb.WatchBuildResponse(sequence=1)
        raise NotFound(Reason.BUILD_NOT_FOUND, f"no build {request.name!r}")


@pytest.fixture
async def server() -> AsyncIterator[RunningServer]:
    add = partial(pb_grpc.add_BuilderServiceServicer_to_server, _Builder())  # type: ignore[abstract]  # enough for this
    running = await start_server("127.0.0.1:0", [Registration(SERVICE, add)])
    running.health.set_ready(ready=True)
    yield running
    await running.stop(0)


@pytest.fixture
async def channel(server: RunningServer) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield channel


def _reason(error: grpc.aio.AioRpcError) -> str:
    status = rpc_status.from_call(error)
    assert status is not None
    return str(status.details[0].value.decode(errors="replace"))


async def test_an_error_arrives_with_code_and_reason(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await pb_grpc.BuilderServiceStub(channel).GetBuild(pb.GetBuildRequest(name="builds/1"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert "BUILD_NOT_FOUND" in _reason(caught.value)


@pytest.mark.parametrize("name", ["bug", "panic"])
async def test_a_bug_leaks_nothing(channel: grpc.aio.Channel, name: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await pb_grpc.BuilderServiceStub(channel).GetBuild(pb.GetBuildRequest(name=name))
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "hunter2" not in str(caught.value)
    assert "unwrap" not in str(caught.value)


async def test_a_stream_that_fails_keeps_what_it_sent(channel: grpc.aio.Channel) -> None:
    seen = []
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for event in pb_grpc.BuilderServiceStub(channel).WatchBuild(pb.WatchBuildRequest(name="x")):
            seen.append(event.sequence)  # noqa: PERF401 - the error comes after the first
    assert seen == [1]
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(("data", "said"), [(b"\x0a\x02\xff\xfe", "name is not UTF-8"), (b"\x0a\x7f", "not a message")])
async def test_bytes_that_are_no_request_are_invalid(channel: grpc.aio.Channel, data: bytes, said: str) -> None:
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{SERVICE}/GetBuild")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(data)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert said in (caught.value.details() or "")


async def test_an_address_in_use_is_named(server: RunningServer) -> None:
    with pytest.raises(OSError, match=server.address):
        await start_server(server.address, [])


@pytest.mark.parametrize("name", ["", "readiness", SERVICE])
async def test_health_follows_readiness(server: RunningServer, channel: grpc.aio.Channel, name: str) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service=name)
    assert (await stub.Check(request)).status == SERVING
    server.health.set_ready(ready=False)
    assert (await stub.Check(request)).status == NOT_SERVING
    assert (await stub.Check(health_pb2.HealthCheckRequest(service="liveness"))).status == SERVING


async def test_health_of_an_unknown_service_is_not_found(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="nope"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_watcher_is_told_although_another_left(server: RunningServer, channel: grpc.aio.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    stays, leaves = (stub.Watch(health_pb2.HealthCheckRequest(service="")) for _ in range(2))
    assert (await stays.read()).status == SERVING
    assert (await leaves.read()).status == SERVING
    leaves.cancel()
    await asyncio.sleep(0.05)
    server.health.set_ready(ready=False)
    assert (await asyncio.wait_for(stays.read(), 10)).status == NOT_SERVING
    stays.cancel()


@pytest.mark.parametrize("service", [REFLECTION_V1, "grpc.reflection.v1alpha.ServerReflection"])
async def test_reflection_lists_services(channel: grpc.aio.Channel, service: str) -> None:
    method: grpc.aio.StreamStreamMultiCallable[Any, Any] = channel.stream_stream(
        f"/{service}/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    call = method(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    response: Any = await call.read()
    names = {item.name for item in response.list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health"} <= names


async def test_each_call_leaves_a_line_with_its_id_and_a_count_by_method_and_code() -> None:
    registry = CollectorRegistry()
    add = partial(pb_grpc.add_BuilderServiceServicer_to_server, _Builder())  # type: ignore[abstract]  # enough for this
    running = await start_server("127.0.0.1:0", [Registration(SERVICE, add)], calls=CallLog("test", registry))
    with capture_logs() as logged:
        async with grpc.aio.insecure_channel(running.address) as channel:
            for name in ("bug", "builds/1", "builds/2"):
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    ask = pb_grpc.BuilderServiceStub(channel).GetBuild
                    await ask(pb.GetBuildRequest(name=name), metadata=(("x-request-id", f"of {name}"),))
                assert ("x-request-id", f"of {name}") in tuple(raised.value.trailing_metadata())
    await running.stop(0)
    count = partial(registry.get_sample_value, "sinkserve_test_calls_total")
    method = "BuilderService.GetBuild"
    assert [count({"method": method, "code": code}) for code in ("INTERNAL", "NOT_FOUND")] == [1, 2]
    lines = [entry for entry in logged if entry["event"] == "call.ended"]
    told = [(line["method"], line["code"], line["reason"], line["resource"]) for line in lines]
    assert told[1:] == [(method, "NOT_FOUND", "BUILD_NOT_FOUND", name) for name in ("builds/1", "builds/2")]
    assert all(line["received"] > 0 and line["peer"] and line["seconds"] >= 0 for line in lines)
    assert not [entry for entry in logged if entry["event"] == "audit"]  # nothing was to be changed


async def test_a_call_that_grpc_ends_itself_has_its_code() -> None:
    registry = CollectorRegistry()
    add = partial(pb_grpc.add_BuilderServiceServicer_to_server, _Builder())  # type: ignore[abstract]  # enough for this
    running = await start_server("127.0.0.1:0", [Registration(SERVICE, add)], calls=CallLog("test", registry))
    async with grpc.aio.insecure_channel(running.address) as channel:
        ask = pb_grpc.BuilderServiceStub(channel).GetBuild
        with pytest.raises(grpc.aio.AioRpcError):
            await ask(pb.GetBuildRequest(name="abort"))
        with pytest.raises(grpc.aio.AioRpcError):
            await ask(pb.GetBuildRequest(name="endless"), timeout=0.3)
    await running.stop(0)
    count = partial(registry.get_sample_value, "sinkserve_test_calls_total")
    method = "BuilderService.GetBuild"
    assert [count({"method": method, "code": code}) for code in ("ABORTED", "CANCELLED", "UNKNOWN")] == [1, 1, None]


def test_a_second_interrupt_ends_at_once_without_a_traceback() -> None:
    program = (
        "import asyncio; from common.rpc.server import stop_requested\n"
        "async def main():\n"
        "    stopping = asyncio.create_task(stop_requested())\n"
        "    await asyncio.sleep(0); print('up', flush=True)\n"
        "    await stopping; print('stopping', flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen((sys.executable, "-c", program), stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        for said in ("up", "stopping"):
            assert process.stdout.readline().strip() == said
            process.send_signal(signal.SIGINT)
        _, noise = process.communicate()
    assert (process.returncode, noise) == (130, "")
