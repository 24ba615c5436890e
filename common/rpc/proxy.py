"""The proxy that gRPC takes from the environment, and which addresses it is not for.

gRPC sends calls through the first of `grpc_proxy`, `https_proxy` and `http_proxy` that is set, and says nothing of it
when they fail. A proxy on another machine cannot reach this one's loopback, so those addresses never go through one.
"""

from __future__ import annotations

import ipaddress
import os
from contextlib import suppress
from urllib.parse import urlsplit

from common.loopback import host_of, is_loopback

VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
DIRECT = ("grpc.enable_http_proxy", 0)
"""The option of a channel that goes through no proxy."""


def proxy_of(address: str) -> str:
    """The variable that sends calls to HOST:PORT through a proxy, as NAME=URL without a password; empty: none does."""
    name = next((name for name in VARIABLES if name in os.environ), "")
    if not os.environ.get(name) or is_loopback(address) or _is_excepted(host_of(address)):
        return ""
    url = urlsplit(os.environ[name])
    return f"{name}={url._replace(netloc=url.netloc.rpartition('@')[2]).geturl()}"


def _is_excepted(host: str) -> bool:
    """Whether `no_grpc_proxy`, else `no_proxy`, names the host: the end of its name, or its network."""
    excepted = os.environ.get("no_grpc_proxy", os.environ.get("no_proxy", ""))  # noqa: SIM112 - gRPC reads these
    return any(_covers(entry.strip(), host) for entry in excepted.split(",") if entry.strip())


def _covers(entry: str, host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    return host.endswith(entry)
