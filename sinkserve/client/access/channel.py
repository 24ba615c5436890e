"""A channel whose calls carry a token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import grpc

from sinkserve.client.access.credentials import Token
from sinkserve.client.errors import InvalidArgument


class AuthorizedChannel:
    """A channel whose calls carry a token. gRPC's own way refuses connections without TLS, also on the loopback."""

    def __init__(self, channel: grpc.aio.Channel, token: Token) -> None:
        self._channel = channel
        self._token = token

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - what a channel has
        found = getattr(self._channel, name)
        return self._authorized(found) if name in _CALLABLES else found

    def _authorized(self, make: Callable[..., Any]) -> Callable[..., Any]:
        def callable_of(*args: object, **named: object) -> Callable[..., Any]:
            method = make(*args, **named)

            def call(*args: object, metadata: tuple[tuple[str, str], ...] | None = None, **named: object) -> object:
                token = ("authorization", f"Bearer {_sendable(self._token())}")
                return method(*args, metadata=(*(metadata or ()), token), **named)

            return call

        return callable_of


def _sendable(token: str) -> str:
    """Raises InvalidArgument for what gRPC would not send, without telling any of it."""
    if not (token.isascii() and token.isprintable()):
        what = "the token has characters that are none of a token's: line ends, control characters, or not of ASCII"
        raise InvalidArgument(grpc.StatusCode.INVALID_ARGUMENT, what)
    return token


_CALLABLES = frozenset({"unary_unary", "unary_stream", "stream_unary", "stream_stream"})


def authorized(channel: grpc.aio.Channel, token: Token) -> grpc.aio.Channel:
    """The channel, with a token on each call."""
    return cast("grpc.aio.Channel", AuthorizedChannel(channel, token))
