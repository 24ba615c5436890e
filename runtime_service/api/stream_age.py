"""When an old stream is told to leave: never in a turn, and with time to do it. So that clients move to new servers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Protocol

from common.errors import Reason, Unavailable

_JITTER = 0.1


class AgingStream(Protocol):
    """A stream that has to end some day."""

    @property
    def resting(self) -> bool:
        """Whether nothing of its session runs, waits or is being accepted."""
        ...

    def go_away(self, grace_s: float) -> None:
        """Ask its client to open another within so long."""

    def expire(self, error: Unavailable) -> None:
        """End it; its session stays as it is."""


class StreamAge:
    """Life: `start` when the stream opens, `between_turns` when a turn has ended or was refused, `stop` when it ends.

    A stream that is `age_s` old, and by a random tenth older, is asked to leave between two turns. From then on it
    is `asked`; if it is still there after `grace_s` it is ended, as soon as it rests.
    """

    def __init__(self, stream: AgingStream, age_s: float, grace_s: float) -> None:
        """Never, if `age_s` is 0."""
        self._stream = stream
        self._age_s = age_s
        self._grace_s = grace_s
        self._old = False
        self._overdue = False
        self._timer: asyncio.TimerHandle | None = None
        self.asked = False

    def start(self) -> None:
        """The stream is open."""
        if self._age_s:
            jitter = 1 + _JITTER * random.random()  # noqa: S311 - spreads clients, hides nothing
            self._after(self._age_s * jitter, self._note_old)

    def stop(self) -> None:
        """The stream ends."""
        if self._timer is not None:
            self._timer.cancel()

    def between_turns(self) -> None:
        """No turn runs at this moment."""
        if self._old and not self.asked:
            self.asked = True
            self._after(self._grace_s, self._note_overdue)
            self._stream.go_away(self._grace_s)
        elif self._overdue and self._stream.resting:
            self._stream.expire(too_old())

    def _note_old(self) -> None:
        self._old = True
        if self._stream.resting:
            self.between_turns()

    def _note_overdue(self) -> None:
        self._overdue = True
        if self._stream.resting:
            self.between_turns()

    def _after(self, delay_s: float, act: Callable[[], None]) -> None:
        self._timer = asyncio.get_running_loop().call_later(delay_s, act)


def too_old() -> Unavailable:
    """The stream is older than streams may be here."""
    return Unavailable(Reason.DRAINING, "the stream is as old as streams may be (max_stream_age_s); open another")
