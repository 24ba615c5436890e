"""How this server comes to have a session, and how it notices that it has it no longer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from common.errors import Aborted, Reason, Unavailable
from runtime_service.domain.session import Session
from runtime_service.storage.claims import Claimed, Key, SessionClaims
from runtime_service.tasks.background import Writer

CLAIM_LEASES = 2
"""How many leases to wait for another replica: longer than it takes to find out that it is dead."""
CLAIM_POLL_S = 0.05
LONGEST_CLAIM_POLL_S = 1.0


class Ownership:
    """`claims` in the database, as the event loop sees them."""

    def __init__(self, claims: SessionClaims, writer: Writer) -> None:
        self._claims = claims
        self._writer = writer

    async def claim(self, key: Key, check_open: Callable[[], None]) -> Claimed:
        """Have a session; another replica that has it is asked for it, and soon hands it over, or turns out to be dead.

        Raises NotFound, Unavailable (SESSION_BUSY) if neither happens, and meanwhile what `check_open` does.
        """
        wait_s = CLAIM_POLL_S
        ends = time.monotonic() + CLAIM_LEASES * self._claims.lease_s
        while (claimed := await self._writer.do(self._claims.claim, *key)) is None:
            check_open()
            if time.monotonic() > ends:
                what = f"sessions/{key[1]} is held by another server, which does not hand it over"
                raise Unavailable(Reason.SESSION_BUSY, what, retry_after_s=1.0, session=f"sessions/{key[1]}")
            await asyncio.sleep(wait_s)
            wait_s = min(1.5 * wait_s, LONGEST_CLAIM_POLL_S)
        return claimed

    async def release(self, session: Session) -> None:
        """Let others have it."""
        await self._writer.do(self._claims.release, session)

    async def lasts(self, session: Session) -> bool:
        """Whether nobody has taken a session, or deleted it, since it was claimed here."""
        try:
            return await asyncio.to_thread(self._claims.has, session)
        except Unavailable:  # nobody can take a session while the database is away
            return True


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
