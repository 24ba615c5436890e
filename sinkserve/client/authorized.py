"""What a client says of itself: certificates and tokens, from files and settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import grpc

Token = Callable[[], str]
"""Gives the token for the next call: one that is about to expire may be another by then."""


def tls_credentials(
    ca: Path | None = None, certificate: Path | None = None, key: Path | None = None
) -> grpc.ChannelCredentials:
    """For servers whose certificate is by `ca` (PEM; else by an authority that gRPC trusts).

    `certificate` and `key` say who this client is. Raises OSError for a file that cannot be read, ValueError for half a
    pair.
    """
    if (certificate is None) != (key is None):
        raise ValueError("a client's certificate and its key belong together")
    files = (path.read_bytes() if path is not None else None for path in (ca, key, certificate))
    return grpc.ssl_channel_credentials(*files)


def token_file(path: Path) -> Token:
    """The token that a file has now. Raises OSError now if it cannot be read."""
    path.read_bytes()
    return lambda: path.read_text().strip()


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
                token = ("authorization", f"Bearer {self._token()}")
                return method(*args, metadata=(*(metadata or ()), token), **named)

            return call

        return callable_of


_CALLABLES = frozenset({"unary_unary", "unary_stream", "stream_unary", "stream_stream"})


def authorized(channel: grpc.aio.Channel, token: Token) -> grpc.aio.Channel:
    """The channel, with a token on each call."""
    return cast("grpc.aio.Channel", AuthorizedChannel(channel, token))
