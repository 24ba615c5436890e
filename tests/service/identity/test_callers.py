"""Who may call what: without credentials, with wrong ones, without the role, at which listener."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory
from structlog.testing import capture_logs

from builder_service import service as builder_service
from common.rpc.listeners import Access
from runtime_service import service as runtime_service
from sinkserve.client import Client, NotFound, PermissionDenied, Unauthenticated
from tests.service.builder.builder import serving
from tests.service.identity.conftest import Callers, metadata
from tests.service.runtime.runtime import Bench, refusal

NOBODY = "127.0.0.1:1"
TABLES = {
    "sinkserve.builder.v1.BuilderService": builder_service._BUILDS,
    "sinkserve.builder.v1.CatalogService": builder_service._CATALOG,
    "sinkserve.runtime.v1.ConversationService": runtime_service._CONVERSATIONS,
    "sinkserve.runtime.v1.EngineService": runtime_service._ENGINES,
}
TALKER = {"ConversationService", "GetEngine", "ListEngines", "ListAliases", "ListLoadedEngines"}
BUILDER = {"BuilderService", "CatalogService", "ListLoadedEngines"}


@pytest.fixture
async def both(tmp_path: Path, callers: Callers) -> AsyncIterator[dict[str, tuple[str, str]]]:
    """Addresses of a builder and a runtime, public and admin, which ask who calls."""
    bench = Bench(tmp_path / "runtime", {}, shared_settings=callers.settings)
    bench.publish()
    await bench.start()
    async with serving(tmp_path, **callers.settings) as builder:
        runtime = bench.handle
        yield {
            "builder": (builder.address, builder.admin_address),
            "runtime": (runtime.address, runtime.admin_address),
        }
    await bench.stop()


def methods(service: str) -> dict[str, Any]:
    """Descriptors by name."""
    found: dict[str, Any] = dict(descriptor_pool.Default().FindServiceByName(service).methods_by_name)
    return found


@pytest.mark.parametrize("service", TABLES)
def test_every_method_says_what_it_takes(service: str) -> None:
    assert set(TABLES[service]) == set(methods(service))


async def outcome(address: str, service: str, method: str, token: str | None) -> tuple[grpc.StatusCode, str]:
    """How an empty request of a method ends."""
    found = methods(service)[method]
    answer = message_factory.GetMessageClass(found.output_type).FromString
    with_token = metadata(token) if token else ()
    async with grpc.aio.insecure_channel(address) as plain:
        channel: Any = plain
        path = f"/{service}/{method}"
        if found.client_streaming:
            call = channel.stream_stream(path, None, answer)(iter([b""]), metadata=with_token)
        elif found.server_streaming:
            call = channel.unary_stream(path, None, answer)(b"", metadata=with_token)
        else:
            call = channel.unary_unary(path, None, answer)(b"", metadata=with_token)
            try:
                await call
            except grpc.aio.AioRpcError:
                return await refusal(call)
            return grpc.StatusCode.OK, ""
        return await refusal(anext(aiter(call)))


def may(role: str, service: str, method: str) -> bool:
    """What the page on identities says."""
    known = {"talker": TALKER, "builder": BUILDER}[role]
    return method in known or (service.rpartition(".")[2] in known and method != "CollectGarbage")


async def test_each_method_is_answered_to_its_roles_alone(both: dict[str, tuple[str, str]], callers: Callers) -> None:
    keys = {name: callers.key(name) for name in ("talker", "builder", "ops", "stranger")}
    missing = (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_MISSING")
    no_role = (grpc.StatusCode.PERMISSION_DENIED, "ROLE_MISSING")
    elsewhere = (grpc.StatusCode.PERMISSION_DENIED, "WRONG_LISTENER")
    for service, method in [(each, method) for each in TABLES for method in TABLES[each]]:
        public, admin = both["builder" if "builder" in service else "runtime"]
        administration = TABLES[service][method] is Access.ADMINISTRATION
        assert await outcome(public, service, method, None) == missing
        assert await outcome(admin, service, method, None) == missing
        for role in ("talker", "builder"):
            said = await outcome(public, service, method, keys[role])
            if administration:
                assert said == elsewhere, method
            else:
                assert (said == no_role) != may(role, service, method), (role, method, said)
            assert await outcome(admin, service, method, keys[role]) == no_role, method
        assert await outcome(admin, service, method, keys["stranger"]) == no_role
        said = await outcome(admin, service, method, keys["ops"])
        assert said[1] not in {"ROLE_MISSING", "WRONG_LISTENER", "CREDENTIALS_MISSING"}, (method, said)


async def test_a_refusal_names_the_role_and_probes_need_none(
    both: dict[str, tuple[str, str]], callers: Callers
) -> None:
    runtime, _ = both["runtime"]
    async with Client(runtime, NOBODY, token=callers.key("builder")) as sdk:
        with pytest.raises(PermissionDenied) as caught:
            await sdk.sessions.create("demo")
    assert (
        caught.value.message == "ConversationService.CreateSession needs role talk, which 'key:builder' does not have"
    )
    assert caught.value.metadata["role"] == "talk"
    command = (sys.executable, "-m", "common.rpc.probe", runtime)
    assert (await asyncio.to_thread(subprocess.run, command, check=False)).returncode == 0


async def test_credentials_are_never_repeated(
    both: dict[str, tuple[str, str]], callers: Callers, tmp_path: Path
) -> None:
    runtime, admin = both["runtime"]
    secrets = [callers.key("ann"), callers.issuer.token(), "ssk_of_nobody_at_all", "not.a.token", "x" * 2000]
    said = ""
    with capture_logs() as logs:
        for secret in secrets:
            for address in (runtime, admin):
                async with Client(address, NOBODY, token=secret) as sdk:
                    try:
                        await sdk.sessions.create("demo")
                    except (Unauthenticated, PermissionDenied) as error:
                        said += f"{error} {error.metadata} {error.violations}"
    assert said.count("UNAUTHENTICATED") == 6
    kept = b"".join(path.read_bytes() for path in (tmp_path / "runtime").rglob("*") if path.is_file())
    for secret in secrets:
        assert secret not in said + str(logs)
        assert secret.encode() not in kept


async def test_a_builder_changes_what_is_theirs_at_the_public_listener(
    both: dict[str, tuple[str, str]], callers: Callers
) -> None:
    builder, _ = both["builder"]
    async with Client(NOBODY, builder, token=callers.key("builder")) as sdk:
        for change in (sdk.engines.delete("demo@1"), sdk.engines.set_alias("demo", "x"), sdk.builds.cancel("builds/x")):
            with pytest.raises(NotFound):
                await change


async def test_a_service_that_others_reach_does_not_start_without_a_word(tmp_path: Path) -> None:
    environment = {"SINKSERVE_HOME": str(tmp_path), "SINKSERVE_RUNTIME_LISTEN": "0.0.0.0:0", "PATH": "/usr/bin"}
    command = (sys.executable, "-m", "runtime_service")
    ran = await asyncio.to_thread(subprocess.run, command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert re.match(r"runtime: SINKSERVE_AUTH_ANONYMOUS: SINKSERVE_RUNTIME_LISTEN=0.0.0.0:0 can be reached", ran.stderr)
