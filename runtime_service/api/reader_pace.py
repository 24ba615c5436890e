"""Whether the client of a stream takes what is sent to it, judged by how much it takes and not by when it last did."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from runtime_service.api.outbox import Outbox


class ReaderPace:
    """A client is behind when as many events wait as may. It has `period_s` then to take those that were put in by
    that moment; if as many wait again, or still, it has as long for what was put in meanwhile. Else: `give_up`.

    What it takes in between does not move the end of the period: one that trickles is as late as one that is absent.
    """

    def __init__(self, outbox: Outbox, period_s: float, give_up: Callable[[], None]) -> None:
        self._outbox = outbox
        self._period_s = period_s
        self._give_up = give_up
        self._due = 0
        self._timer: asyncio.TimerHandle | None = None

    def note_full(self) -> None:
        """As many events wait as may."""
        if self._timer is None:
            self._due = self._outbox.given
            self._timer = asyncio.get_running_loop().call_later(self._period_s, self.judge)

    def judge(self) -> None:
        """The period is over."""
        self.stop()
        if self._outbox.taken < self._due:
            self._give_up()
        elif self._outbox.is_full:
            self.note_full()

    def stop(self) -> None:
        """The stream ends."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
