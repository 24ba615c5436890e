"""Which addresses are on this machine alone."""

from __future__ import annotations

import ipaddress
from contextlib import suppress


def is_loopback(address: str) -> bool:
    """Whether HOST:PORT is on this machine, by its name or its number."""
    host = host_of(address)
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def host_of(address: str) -> str:
    """HOST of HOST:PORT, in lower case and without brackets."""
    return address.rpartition(":")[0].strip("[]").lower()
