"""`authorization: Bearer ...`: API keys and JSON web tokens, whichever are set up."""

from __future__ import annotations

from typing import Protocol

from common.auth.authenticator import Credentials, refused


class Verifier(Protocol):
    """Knows bearers of one kind."""

    async def verify(self, bearer: str) -> str | None:
        """As `Authenticator.identify`."""
        ...


class BearerAuthenticator:
    """Asks each verifier in turn; a bearer that none of them knows is wrong, whatever else the call brings."""

    def __init__(self, *verifiers: Verifier) -> None:
        self._verifiers = verifiers

    async def identify(self, credentials: Credentials) -> str | None:
        """See `Authenticator`."""
        if (bearer := credentials.bearer) is None:
            return None
        for verifier in self._verifiers:
            if (name := await verifier.verify(bearer)) is not None:
                return name
        raise refused("the bearer is of a kind that is not taken here")
