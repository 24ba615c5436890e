"""The gRPC server that both services use: statuses, health, reflection, keepalive, listeners, a graceful stop."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from common.auth.login import Login, OpenLogin
from common.rpc.calls.call_log import CallLog
from common.rpc.calls.gate import Gate
from common.rpc.calls.guard import StatusInterceptor
from common.rpc.health import HealthServicer
from common.rpc.listeners import Access, AdminListener
from common.rpc.tls import Tls

INTERRUPTED = 130
"""Exit status of a program that an impatient person ends."""
REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"

OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.so_reuseport", 0),  # a second server on the same port is an error instead of sharing connections at random
    ("grpc.keepalive_time_ms", 60_000),  # finds clients whose machine or network is gone
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),  # clients may ping more often than gRPC's 5 minutes
    ("grpc.keepalive_permit_without_calls", 1),
)


@dataclass(frozen=True)
class Registration:
    """A servicer: its full name on the wire, how it joins a server, and what its methods take."""

    name: str
    add: Callable[[grpc.aio.Server], None]
    access: Mapping[str, Access] = field(default_factory=dict)


@dataclass(frozen=True)
class Entrance:
    """How callers come in, at every listener of a service."""

    login: Login = field(default_factory=OpenLogin)
    tls: Tls | None = None


@dataclass(frozen=True)
class RunningServer:
    """A server that listens. Not ready until `health.set_ready(True)`."""

    address: str
    admin_address: str
    """Empty: administration is answered nowhere."""
    health: HealthServicer
    grpc_servers: tuple[grpc.aio.Server, ...]

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, let running ones finish within `grace_s`, cancel the rest."""
        self.health.set_ready(False)
        await asyncio.gather(*(server.stop(grace_s) for server in self.grpc_servers))


async def start_server(
    listen: str,
    registrations: Sequence[Registration],
    *,
    admin: AdminListener | None = None,
    entrance: Entrance | None = None,
    health: HealthServicer | None = None,
    calls: CallLog | None = None,
    connection_age_s: float = 0.0,
) -> RunningServer:
    """Listen on HOST:PORT (port 0: any free one, see `address`); raises OSError naming an address in use.

    Administration is answered at `admin` alone, where all other methods are, too. A connection of
    `connection_age_s`, give or take a tenth, takes no new calls, and those on it go on. 0: never.
    """
    age = (("grpc.max_connection_age_ms", round(connection_age_s * 1000)),) if connection_age_s else ()
    health = health or HealthServicer()
    health.serve(registration.name for registration in registrations)
    entrance, access = entrance or Entrance(), _access(registrations)
    public = _make_server(_status(Gate(entrance.login, access, admin), calls), registrations, health, age)
    address, servers = _bind(public, listen, entrance.tls), [public]
    admin_address = ""
    if admin is not None and admin.listen:
        gate = Gate(entrance.login, access, at_admin=True)
        servers.append(_make_server(_status(gate, calls), registrations, health, age))
        admin_address = _bind(servers[1], admin.listen, entrance.tls, admin.setting)
    for server in servers:
        await server.start()
    return RunningServer(address, admin_address, health, tuple(servers))


def _status(gate: Gate, calls: CallLog | None) -> StatusInterceptor:
    """One for each listener: it keeps the handlers that it has seen."""
    return StatusInterceptor(gate.admit, calls)


def _make_server(
    interceptor: grpc.aio.ServerInterceptor,
    registrations: Sequence[Registration],
    health: HealthServicer,
    more: tuple[tuple[str, int], ...],
) -> grpc.aio.Server:
    server = grpc.aio.server(interceptors=(interceptor,), options=(*OPTIONS, *more))
    for registration in registrations:
        registration.add(server)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    names = [registration.name for registration in registrations]
    _add_reflection(server, [*names, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name])
    return server


def _access(registrations: Sequence[Registration]) -> Mapping[str, Access]:
    return {f"/{each.name}/{method}": access for each in registrations for method, access in each.access.items()}


def _bind(server: grpc.aio.Server, listen: str, tls: Tls | None, setting: str = "") -> str:
    """The address, HOST:PORT; `setting` is said where it cannot be had."""
    try:
        port = server.add_secure_port(listen, tls.credentials()) if tls else server.add_insecure_port(listen)
    except RuntimeError:
        said = f"{setting}: " if setting else ""
        raise OSError(f"{said}cannot listen on {listen}: the address is in use, or not of this machine") from None
    return f"{listen.rpartition(':')[0]}:{port}"


def _add_reflection(server: grpc.aio.Server, names: Sequence[str]) -> None:
    """Serve v1alpha and, since grpcio ships only that and the messages are the same, v1 as well.

    v1 is not listed: its descriptors are not here, and a client that asks for what is listed would fail.
    """
    servicer = reflection.aio.ReflectionServicer(service_names=[*names, reflection.SERVICE_NAME])
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    generic = grpc.method_handlers_generic_handler(REFLECTION_V1, {"ServerReflectionInfo": handler})
    server.add_generic_rpc_handlers((generic,))


async def stop_requested() -> None:
    """Return at SIGTERM or SIGINT; another SIGINT after that ends the process at once, without a word."""
    requested = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, requested.set)
    try:
        await requested.wait()
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        loop.add_signal_handler(signal.SIGINT, os._exit, INTERRUPTED)
