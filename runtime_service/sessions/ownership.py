"""How this server becomes the owner of a session, and how it notices that it is not the owner any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from common.errors import Aborted, Reason, Unavailable
from common.retry import growing, retry, within
from runtime_service.domain.session import Session
from runtime_service.storage.claims import Claimed, Key, SessionClaims
from runtime_service.tasks.background import Writer

CLAIM_LEASES = 2
"""How many leases to wait for another replica: longer than it takes to find out that it is dead."""
CLAIM_POLL_S = 0.05
LONGEST_CLAIM_POLL_S = 1.0
"""Each try takes the database's one write lock, so a claim that has waited for long tries less often."""


class Ownership:
    """`claims` in the database, as the event loop sees them."""

    def __init__(self, claims: SessionClaims, writer: Writer) -> None:
        self._claims = claims
        self._writer = writer

    async def claim(self, key: Key, check_open: Callable[[], None]) -> Claimed:
        """Become the owner of a session. Its owner is asked for it and hands it over, or its lease ends.

        Raises NotFound, Unavailable (SESSION_BUSY) if neither happens, and meanwhile what `check_open` does.
        """
        waits = growing(CLAIM_POLL_S, 1.5, LONGEST_CLAIM_POLL_S)

        async def claim() -> Claimed:
            if (claimed := await self._writer.do(self._claims.claim, *key)) is not None:
                return claimed
            check_open()
            what = f"sessions/{key[1]} is held by another server, which does not hand it over"
            raise Unavailable(Reason.SESSION_BUSY, what, retry_after_s=1.0, session=f"sessions/{key[1]}")

        return await retry(claim, _is_busy, within(CLAIM_LEASES * self._claims.lease_s, waits))

    async def is_current(self, session: Session) -> bool:
        """Whether this server still owns a session: nobody has claimed it since, or deleted it."""
        try:
            return await asyncio.to_thread(self._claims.is_owner, session)
        except Unavailable:  # while the database is away nobody can claim a session
            return True


def _is_busy(error: Exception) -> bool:
    return isinstance(error, Unavailable) and error.reason is Reason.SESSION_BUSY


def taken_over(key: Key) -> Aborted:
    """Another server has the session."""
    name = f"sessions/{key[1]}"
    return Aborted(Reason.SESSION_TAKEN_OVER, f"{name} was opened at another server", session=name)


def deleted(session_id: str) -> Aborted:
    """The session is gone."""
    name = f"sessions/{session_id}"
    return Aborted(Reason.SESSION_DELETED, f"{name} was deleted", session=name)


def draining() -> Unavailable:
    """The server is stopping."""
    return Unavailable(Reason.DRAINING, "the server is stopping; connect again", retry_after_s=1.0)
