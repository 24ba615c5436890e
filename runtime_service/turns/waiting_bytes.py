"""How much memory the turns take that wait or run, so that no crowd of long ones fills it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from common.errors import Reason, ResourceExhausted
from runtime_service.settings import RuntimeSettings
from runtime_service.turns.pending import PendingTurn


class WaitingBytes:
    """Of all sessions of a server together. A turn is always taken where it is the only one."""

    def __init__(self) -> None:
        self.total = 0

    @contextmanager
    def taken_in(self, size_bytes: int) -> Iterator[None]:
        """So many are being accepted meanwhile."""
        self.add(size_bytes)
        try:
            yield
        finally:
            self.add(-size_bytes)

    def add(self, size_bytes: int) -> None:
        """So many more wait or run; fewer, if it is negative."""
        self.total += size_bytes

    def check_room(self, size_bytes: int, waiting: Sequence[PendingTurn], settings: RuntimeSettings) -> None:
        """Raise ResourceExhausted if one more turn is too much beside the `waiting` ones of its session
        (TURN_QUEUE_FULL), or beside those of all (CAPACITY_EXHAUSTED).
        """
        of_session = sum(pending.size_bytes for pending in waiting)
        if waiting and of_session + size_bytes > (most := settings.waiting_session_bytes):
            where, name = "this session wait", "waiting_session_bytes"
            raise _full(Reason.TURN_QUEUE_FULL, size_bytes, of_session, most, where, name)
        if self.total and self.total + size_bytes > (most := settings.waiting_bytes):
            where, name = "all sessions wait or run", "waiting_bytes"
            raise _full(Reason.CAPACITY_EXHAUSTED, size_bytes, self.total, most, where, name)


def _full(reason: Reason, size_bytes: int, beside: int, most: int, where: str, name: str) -> ResourceExhausted:  # noqa: PLR0917 - the parts of one sentence
    message = (
        f"the turn takes about {size_bytes} bytes of memory, and turns of {where} that take {beside}; "
        f"together they may take {most} ({name})"
    )
    return ResourceExhausted(reason, message, retry_after_s=1.0, bound=name, bytes=size_bytes, most=most)
