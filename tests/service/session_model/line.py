"""One stream as the servicer drives it, and what its client hears."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from common.errors import Reason, SinkServeError
from runtime_service.api.requests import Request
from runtime_service.api.stream import ConversationStream
from runtime_service.sessions.live_session import LiveSession
from runtime_service.turns.events import Event
from tests.service.session_model.replica import PATIENCE_S, Replica
from tests.service.session_model.sessions import ModelSession


@dataclass(eq=False)
class Line:
    """A stream, as the servicer drives it, and what its client heard."""

    replica: Replica
    session_id: str
    conversation: ConversationStream
    hears_all: bool = False
    named: set[str] = field(default_factory=set)
    heard: list[Event] = field(default_factory=list)
    reading: asyncio.Event = field(default_factory=asyncio.Event)
    listener: asyncio.Task[None] | None = None
    ended: bool = False
    half_closed: bool = False
    error: Reason | None = None
    session: ModelSession | None = None
    live: LiveSession | None = None

    @property
    def over(self) -> bool:
        return self.ended or self.conversation.outbox.closed

    async def ask(self, request: Request) -> Reason | None:
        """Send a request; returns why it ended the stream, if it did."""
        try:
            await self.conversation.receive(request)
        except SinkServeError as error:
            self.conversation.lost(error)
            return error.reason
        return None

    def listen(self) -> None:
        self.reading.set()
        self.listener = asyncio.create_task(self._listen())

    async def hang_up(self) -> None:
        """Be gone, with nobody to tell."""
        if self.listener is not None:
            self.listener.cancel()
            await asyncio.gather(self.listener, return_exceptions=True)
        self.ended = True

    async def _listen(self) -> None:
        try:
            while True:
                await self.reading.wait()
                events = await self.conversation.outbox.take(PATIENCE_S)
                if events is None:
                    break
                self.heard += events
            await self.conversation.finish()
        except SinkServeError as error:
            self.error = error.reason
        finally:
            self.conversation.lost()
        self.ended = True
