"""API keys: random bytes for a name, of which a file has the hashes. Of 256 random bits a plain hash says nothing."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from common.auth.authenticator import checked_name, refused
from common.watched import Watched

PREFIX = "ssk_"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")
_LINE = re.compile(rf"(?P<hash>[0-9a-f]{{64}}) (?P<name>{NAME.pattern}) (?P<created>\S+)")
_ID_DIGITS = 12


@dataclass(frozen=True)
class ApiKey:
    """A line of the file: HASH NAME CREATED. A name may have several keys, so that one can replace another."""

    hash: str
    name: str
    created: str

    @property
    def key_id(self) -> str:
        """What people call it by: the beginning of its hash."""
        return self.hash[:_ID_DIGITS]

    @property
    def line(self) -> str:
        """As it stands in the file."""
        return f"{self.hash} {self.name} {self.created}\n"


def new_key(name: str) -> tuple[str, ApiKey]:
    """A new key, which nobody can know afterwards, and its line; raises ValueError for a name that cannot be."""
    if not NAME.fullmatch(name):
        raise ValueError(f"{name[:100]!r} is not a name: letters, digits, '.', '_', '@' and '-', at most 63")
    key = PREFIX + secrets.token_urlsafe(32)
    return key, ApiKey(_hash(key), name, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))


def read_keys(data: bytes) -> dict[str, ApiKey]:
    """Keys by hash; empty lines and those that begin with # are skipped. Raises ValueError, naming the line."""
    keys = {}
    for number, line in enumerate(data.decode(errors="replace").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        if (found := _LINE.fullmatch(line.strip())) is None:
            raise ValueError(f"line {number} is not HASH NAME CREATED, as `sinkserve keys new NAME` writes it")
        keys[found["hash"]] = ApiKey(**found.groupdict())
    return keys


class ApiKeys:
    """`key:` and the name of a key in a file."""

    def __init__(self, setting: str, path: Path) -> None:
        self._keys: Watched[Mapping[str, ApiKey]] = Watched(setting, (path,), read_keys)

    async def verify(self, bearer: str) -> str | None:
        """The principal; None: it is no API key. Raises Unauthenticated for one that is not in the file."""
        if not bearer.startswith(PREFIX):
            return None
        found = self._keys.value.get(_hash(bearer))
        if found is None:
            raise refused("the API key is not known here, or was revoked")
        return checked_name("key", found.name)


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
