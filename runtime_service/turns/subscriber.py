"""What a session tells the stream that has it open."""

from __future__ import annotations

from typing import Protocol

from common.errors import SinkServeError
from runtime_service.turns.events import Event
from runtime_service.turns.known import KnownTurn


class Subscriber(Protocol):
    """At most one a session; called in the event loop, and never waits."""

    def on_event(self, event: Event) -> None:
        """An event of a turn."""

    def on_idle(self) -> None:
        """No turn is being accepted any more, and none runs or waits."""

    def on_accepted(self, turn_id: str, known: KnownTurn | None) -> None:
        """The turn that this subscriber sent was accepted now, or is `known`."""

    def on_drain(self, grace_s: float) -> None:
        """The server is stopping; what runs may finish for this long."""

    def on_lost(self, error: SinkServeError) -> None:
        """The session is not this subscriber's any more."""
