"""The seam: what a call brings, and how each way of authentication makes a name of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from common.auth.principal import LONGEST_NAME
from common.controls import is_name
from common.errors import Reason, Unauthenticated

_SCHEME = "bearer "


@dataclass(frozen=True)
class Certificate:
    """Of a client, whose authority was checked by TLS."""

    common_name: str
    spiffe_id: str = ""


def _no_certificate() -> Certificate | None:
    return None


@dataclass(frozen=True)
class Credentials:
    """What a call brings: metadata, and the certificate of its connection."""

    metadata: Sequence[tuple[str, str | bytes]] = field(default=(), repr=False)
    read_certificate: Callable[[], Certificate | None] = _no_certificate

    def values(self, key: str) -> list[str]:
        """Of a metadata key, in lower case."""
        return [str(value) for name, value in self.metadata if name == key]

    @property
    def bearer(self) -> str | None:
        """The token of `authorization: Bearer TOKEN`, if there is one. Raises Unauthenticated for two."""
        values = self.values("authorization")
        if len(values) > 1:
            raise refused("metadata `authorization` has to be there once")
        if not values or values[0][: len(_SCHEME)].lower() != _SCHEME:
            return None
        return values[0][len(_SCHEME) :].strip()


class Authenticator(Protocol):
    """A way to know who calls."""

    async def identify(self, credentials: Credentials) -> str | None:
        """The name of the principal; None: these credentials are not of this kind.

        Raises Unauthenticated for credentials of this kind that are wrong, and Unavailable if that cannot be known
        now. What is said of them never has the credentials in it.
        """
        ...


def refused(why: str) -> Unauthenticated:
    """The error for credentials that are wrong."""
    return Unauthenticated(Reason.CREDENTIALS_INVALID, why)


def checked_name(kind: str, name: object) -> str:
    """KIND:NAME; raises Unauthenticated for a name that nobody can have."""
    found = f"{kind}:{name}"
    if not isinstance(name, str) or not name or len(found) > LONGEST_NAME or not is_name(name):
        raise refused(f"the {kind} names nobody in 1 to {LONGEST_NAME - len(kind) - 1} printable characters")
    return found
