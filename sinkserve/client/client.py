"""The client: connections to a builder and a runtime, and their resources."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self, Unpack

import grpc

from sinkserve.client import requests
from sinkserve.client.access.credentials import Token
from sinkserve.client.builds import Builds
from sinkserve.client.conversation import Conversation
from sinkserve.client.engines import Engines
from sinkserve.client.peer import Peer
from sinkserve.client.requests import SessionOptions
from sinkserve.client.retry import Retry
from sinkserve.client.sessions import PREFIX, Sessions, session_id
from sinkserve.client.stream import Route
from sinkserve.runtime.v1 import conversation_service_pb2 as pb

_VARIABLES = tuple(f"SINKSERVE_CLIENT_{name}" for name in ("TLS", "CA", "CERT", "KEY", "TOKEN", "TOKEN_FILE"))


class Client:
    """Talks to a builder and a runtime, in the event loop that uses it first.

        async with Client() as client:
            async with client.conversation("demo") as conversation:
                turn = await conversation.say("hello")
                await turn.wait()
                print(turn.text)

    Addresses are HOST:PORT; those left out come from SINKSERVE_CLIENT_RUNTIME and SINKSERVE_CLIENT_BUILDER, else
    are 127.0.0.1:50071 and 127.0.0.1:50061. Administration (loading, unloading, deleting, aliases, cancelling builds)
    is answered at addresses of its own, `runtime_admin` and `builder_admin`, which belong to the addresses that they
    are given with. With `credentials` (`tls_credentials` makes them of files) connections are encrypted. `token` goes
    with each call: an API key or a token of an identity provider, or a function that gives the one of now. Both come
    from SINKSERVE_CLIENT_* where they are left out; an empty `token` is none at all. Connecting happens at the first
    call. Every method raises SinkServeError.
    """

    def __init__(
        self,
        runtime: str | None = None,
        builder: str | None = None,
        *,
        runtime_admin: str | None = None,
        builder_admin: str | None = None,
        retry: Retry | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        token: str | Token | None = None,
    ) -> None:
        where = _find_addresses(runtime, builder, runtime_admin, builder_admin)
        credentials, said = _find_credentials(credentials, token)
        self.runtime_address, self.builder_address = where.runtime, where.builder
        self._retry = retry or Retry()
        peer = partial(Peer, credentials=credentials, token=said, retry=self._retry)
        self._runtime, self._builder = peer(where.runtime), peer(where.builder)
        runtime_admin_peer = peer(where.runtime_admin, missing=_missing_admin("runtime"))
        builder_admin_peer = peer(where.builder_admin) if where.builder_admin else self._builder
        self._peers = (self._runtime, self._builder, runtime_admin_peer, builder_admin_peer)
        self.builds = Builds(self._builder, builder_admin_peer, self._retry)
        """Builds: submit, watch, wait, get, list, cancel."""
        self.engines = Engines(self._builder, builder_admin_peer, self._runtime, runtime_admin_peer)
        """Engines: get, list, verify, delete, aliases; load, unload, loaded."""
        self.sessions = Sessions(self._runtime)
        """Sessions: create, get, list, update, turns, cancel_turn, fork, rewind, delete, usage."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; sessions live on."""
        for peer in self._peers:
            await peer.close()

    def conversation(
        self,
        engine: str | None = None,
        *,
        session: str | None = None,
        session_id: str = "",
        **options: Unpack[SessionOptions],
    ) -> Conversation:
        """A new conversation with `engine` (an engine reference), or `session` (sessions/ID) again.

        `session_id` is an id of yours for a new session (default: a UUID): opening again with the same one finds
        it. Options are for new sessions. Raises TypeError unless exactly one of `engine` and `session` is given.
        """
        if engine is not None and session is None:
            identity = session_id or requests.new_id()
            return self._conversation(identity, requests.new_session(engine, identity, options))
        if session is not None and engine is None and not options and not session_id:
            return self._resume(session)
        raise TypeError("a conversation takes an engine and options, or the session to resume and nothing else")

    def _resume(self, session: str) -> Conversation:
        name = session if session.startswith(PREFIX) else PREFIX + session
        return self._conversation(session_id(name), name)

    def _conversation(self, identity: str, target: pb.NewSession | str) -> Conversation:
        return Conversation(Route(self._runtime, identity), target, self._retry)


@dataclass(frozen=True)
class _Addresses:
    """HOST:PORT of both services, and of their admin listeners; those are empty where nothing says where they are."""

    runtime: str
    builder: str
    runtime_admin: str
    builder_admin: str


def _find_addresses(
    runtime: str | None, builder: str | None, runtime_admin: str | None, builder_admin: str | None
) -> _Addresses:
    """Those given, and the settings' for the rest; of a service that was given, no setting says where its admin is.

    Raises SettingsError.
    """
    if runtime is not None and builder is not None:  # most of the import's time is the settings'
        return _Addresses(runtime, builder, runtime_admin or "", builder_admin or "")
    from sinkserve.client.settings import ClientSettings  # noqa: PLC0415

    settings = ClientSettings.load()
    return _Addresses(
        runtime or settings.runtime,
        builder or settings.builder,
        runtime_admin or (settings.admin_of("runtime") if runtime is None else ""),
        builder_admin or (settings.admin_of("builder") if builder is None else ""),
    )


def _find_credentials(
    credentials: grpc.ChannelCredentials | None, token: str | Token | None
) -> tuple[grpc.ChannelCredentials | None, Token | None]:
    """Those given, and the settings' for the rest. Raises SettingsError."""
    if token == "":
        return credentials, None
    given: Token | None = (lambda: token) if isinstance(token, str) else token
    if not any(name in os.environ for name in _VARIABLES):
        return credentials, given
    from sinkserve.client.settings import ClientSettings  # noqa: PLC0415

    settings = ClientSettings.load()
    return credentials or settings.credentials(), given or settings.authorization()


def _missing_admin(service: str) -> str:
    """What is wrong when administration is asked for and nothing says where."""
    return (
        f"this is administration, and no admin address of the {service} is known: "
        f"SINKSERVE_CLIENT_{service.upper()}_ADMIN, or Client({service}_admin=...), names it"
    )
