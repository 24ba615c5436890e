"""One server as a client sees it: its address, a connection made in the event loop that uses it first, and calls.

Errors of calls become ours, lists are followed to their last page.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

import grpc

from common.loopback import is_loopback
from common.rpc.proxy import DIRECT
from sinkserve.client.access.channel import authorized
from sinkserve.client.access.credentials import Token
from sinkserve.client.errors import Details, FailedPrecondition, Unavailable, from_call
from sinkserve.client.retry import Retry

PAGE_SIZE = 200
CHANNEL_OPTIONS = (
    ("grpc.keepalive_time_ms", 60_000),  # finds servers whose machine or network is gone
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.max_receive_message_length", 64 << 20),  # a page of long turns
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)
_NO_ADMIN = Details(reason="WRONG_LISTENER", retry="never")

log = logging.getLogger(__name__)

T = TypeVar("T")
Item_co = TypeVar("Item_co", covariant=True)


Metadata = tuple[tuple[str, str], ...]


class PageRequest(Protocol):
    """A request of a List method."""

    page_token: str


class Page(Protocol):
    """An answer of a List method."""

    @property
    def next_page_token(self) -> str: ...


P = TypeVar("P", bound=Page)


class Peer:
    """A server at `address`, HOST:PORT. Where that is empty, using it raises what `missing` says."""

    def __init__(
        self,
        address: str,
        credentials: grpc.ChannelCredentials | None = None,
        missing: str = "",
        *,
        token: Token | None = None,
        retry: Retry | None = None,
    ) -> None:
        self.address = address
        self._credentials = credentials
        self._token = token
        self._missing = missing
        self._retry = retry or Retry()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._channel: grpc.aio.Channel | None = None

    @property
    def channel(self) -> grpc.aio.Channel:
        """The connection. Raises RuntimeError outside the event loop that used it first, FailedPrecondition."""
        if not self.address:
            raise FailedPrecondition(grpc.StatusCode.FAILED_PRECONDITION, self._missing, _NO_ADMIN)
        loop = asyncio.get_running_loop()
        if self._channel is None:
            self._loop, self._channel = loop, self._connect()
        if self._loop is not loop:
            raise RuntimeError("a Client belongs to the event loop that used it first; make another one for this loop")
        return self._channel

    def _connect(self) -> grpc.aio.Channel:
        channel = _connect(self.address, self._credentials)
        if self._token is None:
            return channel
        _warn_of_clear_tokens(self.address, self._credentials)
        return authorized(channel, self._token)

    async def ask(self, method: Callable[..., Awaitable[T]], request: object, metadata: Metadata = ()) -> T:
        """The answer of a method, which is called again while the server is leaving; raises SinkServeError.

        The next call finds another one. Every method may be asked again: what it makes has an id of the client's.
        """
        for attempt in range(self._retry.attempts_of_call - 1):
            try:
                return await self._once(method, request, metadata)
            except Unavailable as error:
                if error.retry != "reopen":
                    raise
                await asyncio.sleep(self._retry.wait_s(attempt, random.random()))  # noqa: S311 - spreads clients
        return await self._once(method, request, metadata)

    async def _once(self, method: Callable[..., Awaitable[T]], request: object, metadata: Metadata) -> T:
        try:
            return await method(request, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise from_call(error, self.address) from None

    async def pages(
        self,
        method: Callable[..., Awaitable[P]],
        request: PageRequest,
        items: Callable[[P], Sequence[T]],
        metadata: Metadata = (),
    ) -> AsyncIterator[T]:
        """Every item of a list, whose `request` is for its first page. Raises as `ask`."""
        while True:
            page = await self.ask(method, request, metadata)
            for item in items(page):
                yield item
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def close(self) -> None:
        """Close the connection, if one was made."""
        if self._channel is not None:
            await self._channel.close()


def _connect(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
    options = (*CHANNEL_OPTIONS, DIRECT) if is_loopback(address) else CHANNEL_OPTIONS
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, credentials, options=options)


def _warn_of_clear_tokens(address: str, credentials: grpc.ChannelCredentials | None) -> None:
    """Whoever is between may have the token then, unless a proxy beside the client encrypts."""
    if credentials is None and not is_loopback(address):
        log.warning("a token goes to %s without TLS, so that others may read it on its way", address)
