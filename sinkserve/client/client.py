"""The client: connections to a builder and a runtime, and their resources."""

from __future__ import annotations

from types import TracebackType
from typing import Self, Unpack

import grpc

from common.rpc.proxy import DIRECT, is_loopback
from sinkserve.client import requests
from sinkserve.client.builds import Builds
from sinkserve.client.conversation import Conversation
from sinkserve.client.engines import Engines
from sinkserve.client.requests import SessionOptions
from sinkserve.client.retry import Retry
from sinkserve.client.sessions import PREFIX, Sessions, session_id
from sinkserve.client.stream import Route
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from sinkserve.runtime.v1 import conversation_service_pb2_grpc as pb_grpc

CHANNEL_OPTIONS = (
    ("grpc.keepalive_time_ms", 60_000),  # finds servers whose machine or network is gone
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.max_receive_message_length", 64 << 20),  # a page of long turns
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)


class Client:
    """Talks to a builder and a runtime, in an event loop.

        async with Client() as client:
            async with client.conversation("demo") as conversation:
                turn = await conversation.say("hello")
                await turn.wait()
                print(turn.text)

    Addresses are HOST:PORT; those left out come from SINKSERVE_CLIENT_RUNTIME and SINKSERVE_CLIENT_BUILDER, else
    are 127.0.0.1:50071 and 127.0.0.1:50061. With `credentials` connections are encrypted. Connecting happens at
    the first call. Every method raises SinkServeError.
    """

    def __init__(
        self,
        runtime: str | None = None,
        builder: str | None = None,
        *,
        retry: Retry | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self.runtime_address, self.builder_address = _addresses(runtime, builder)
        self._retry = retry or Retry()
        self._runtime = _channel(self.runtime_address, credentials)
        self._builder = _channel(self.builder_address, credentials)
        self._stub: pb_grpc.ConversationServiceAsyncStub = pb_grpc.ConversationServiceStub(self._runtime)
        self.builds = Builds(self._builder, self.builder_address, self._retry)
        """Builds: submit, watch, wait, get, list, cancel."""
        self.engines = Engines(self._builder, self.builder_address, self._runtime, self.runtime_address)
        """Engines: get, list, verify, delete, aliases; load, unload, loaded."""
        self.sessions = Sessions(self._stub, self.runtime_address)
        """Sessions: create, get, list, update, turns, cancel_turn, fork, rewind, delete."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; sessions live on."""
        await self._runtime.close()
        await self._builder.close()

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
        return Conversation(Route(self._stub, self.runtime_address, identity), target, self._retry)


def _addresses(runtime: str | None, builder: str | None) -> tuple[str, str]:
    if runtime is not None and builder is not None:
        return runtime, builder
    from sinkserve.client.settings import ClientSettings  # noqa: PLC0415 - half of this package's import time

    settings = ClientSettings.load()
    return runtime or settings.runtime, builder or settings.builder


def _channel(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
    options = (*CHANNEL_OPTIONS, DIRECT) if is_loopback(address) else CHANNEL_OPTIONS
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, credentials, options=options)
