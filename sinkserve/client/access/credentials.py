"""What a client says of itself: certificates and tokens, from files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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
