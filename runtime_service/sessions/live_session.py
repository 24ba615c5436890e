"""One session in memory: who follows it, what it accepts, and when its time is up.

Belongs to the event loop. A turn's input is durable before it is accepted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from common.db.database import utc_now
from common.errors import Aborted, AlreadyExists, Reason, ResourceExhausted, SinkServeError
from runtime_service.domain.durability import Durability
from runtime_service.domain.session import Session
from runtime_service.domain.turn import Turn, TurnRequest
from runtime_service.engines.registry import LoadedEngine, not_loaded
from runtime_service.scheduling.slots import Residence
from runtime_service.sessions.events import Event
from runtime_service.sessions.shared import Shared
from runtime_service.sessions.turn_input import check_room, options_of, prompt_of
from runtime_service.sessions.turn_queue import Pending, TurnQueue, retell

MOST_WAITING = 8
_LONG_TEXT = 20_000  # bytes of a request whose tokens are found outside the event loop


@dataclass(frozen=True)
class Repeat:
    """What was told of a turn that is known already."""

    events: tuple[Event, ...]
    ended: bool


class Subscriber(Protocol):
    """Who hears what happens in a session: the stream that has it open."""

    def hear(self, event: Event) -> None:
        """An event of a turn."""

    def idle(self) -> None:
        """No turn is being accepted any more, and none runs or waits."""

    def attach(self, turn_id: str, known: Repeat | None) -> None:
        """The turn that the follower named was accepted, or is `known`."""

    def go_away(self, grace_s: float) -> None:
        """The server is stopping; what runs may finish for this long."""

    def end(self, error: SinkServeError) -> None:
        """The session is not this follower's any more."""


class LiveSession:
    """Life: made by `Sessions`, followed by at most one stream, `close`d when it leaves memory."""

    def __init__(
        self,
        session: Session,
        engine: LoadedEngine,
        shared: Shared,
        next_number: int,
        on_broken: Callable[[LiveSession, SinkServeError], None],
    ) -> None:
        self.engine = engine
        self._break_down = partial(on_broken, self)
        self.turns = TurnQueue(session, engine, shared, self._tell, self._break_down)
        self.closed = False
        self._closed_by: SinkServeError | None = None
        self._doubtful: Pending | None = None  # nobody knows whether it was kept
        self._follower: Subscriber | None = None
        self._abandoned = False  # who followed last was lost
        self._shared = shared
        self._accepting = asyncio.Lock()
        self._accepts = 0
        self._next_number = next_number

    @property
    def session(self) -> Session:
        """What is kept of it."""
        return self.turns.session

    @property
    def residence(self) -> Residence:
        """Where its cache is."""
        return self.turns.tenant.residence

    @property
    def recomputes(self) -> bool:
        """Whether its cache has to be computed again from its tokens before the next turn."""
        fresh = self.session.position == len(self.session.opening)
        kept = self.turns.cache_is_kept or self._shared.caches.files.has(self.session.key)
        return self.residence is Residence.STORED and not fresh and not kept

    @property
    def idle(self) -> bool:
        """No turn runs, waits or is being accepted."""
        return not self.turns.pending and not self._accepts

    @property
    def busy(self) -> bool:
        """Somebody follows, or a turn runs."""
        return self._follower is not None or not self.idle

    def follow(self, follower: Subscriber) -> None:
        """Let `follower` hear everything from now on; who followed before ends ABORTED (SESSION_TAKEN_OVER)."""
        before, self._follower = self._follower, follower
        self._abandoned = False
        if before is not None:
            what = f"another stream opened {self.session.name}"
            before.end(Aborted(Reason.SESSION_TAKEN_OVER, what, session=self.session.name))
        self.turns.pause(paused=False)
        self._note_activity()

    def leave(self, follower: Subscriber, *, lost: bool) -> None:
        """End following; if the stream was `lost`, turns are cancelled unless the session says otherwise."""
        if self._follower is not follower:
            return
        self._follower = None
        self._abandoned = lost
        if lost and not self.session.options.continue_when_disconnected:
            for pending in self.turns.pending:
                self.turns.cancel(pending.turn.turn_id, discard=False)
        self.turns.pause(paused=False)
        self._note_activity()

    def pause(self, follower: Subscriber, *, paused: bool) -> None:
        """Stop feeding the running turn because `follower` does not read, or go on."""
        if self._follower is follower:
            self.turns.pause(paused=paused)

    async def accept(self, request: TurnRequest, follower: Subscriber) -> None:
        """Take a turn, durably; one that is known is not run again. `follower` is attached to it.

        Raises what is wrong with it; AlreadyExists (TURN_ID_REUSED); ResourceExhausted (TURN_QUEUE_FULL).
        """
        self._accepts += 1
        try:
            async with self._accepting:
                await self._accept(request, follower)
        except Aborted as error:
            self._break_down(error)
            raise
        finally:
            self._accepts -= 1
            self._note_idle()

    async def cancel(self, turn_id: str, *, discard: bool) -> None:
        """Cancel a turn that runs, waits or is being accepted; any other stays as it is."""
        if self.turns.find(turn_id) is None and self._accepts:
            async with self._accepting:
                pass
        self.turns.cancel(turn_id, discard=discard)

    def rest(self) -> None:
        """Let the session's time run if nobody came to follow it."""
        self._note_activity()

    def go_away(self, grace_s: float) -> None:
        """Tell who follows that the server is stopping."""
        if self._follower is not None:
            self._follower.go_away(grace_s)

    def restart(self, unended: list[Turn], prompts: list[tuple[int, ...]]) -> None:
        """Run what another process accepted and did not finish; it may have begun the first."""
        for index, (turn, prompt) in enumerate(zip(unended, prompts, strict=True)):
            again = replace(turn, attempt=turn.attempt + (index == 0))
            self.turns.add(Pending(again, prompt, time.monotonic()))

    @property
    def keeps_snapshots(self) -> bool:
        """Whether its cache outlives this process."""
        return self.session.options.durability is Durability.TOKENS_AND_KV

    async def close(self, error: SinkServeError | None = None, *, keep: bool = False) -> None:
        """Leave memory, let other servers have the session if it is kept, and end who follows with `error`.

        Its cache is to `keep` where it may be wanted again.
        """
        self.closed = True
        self._closed_by = error
        follower, self._follower = self._follower, None
        state = await self.turns.close(keep=keep)
        await self._shared.caches.leave(self.session, state)
        let_go = self._shared.claims.release if self.session.is_kept else self._shared.repository.delete
        with suppress(SinkServeError):  # the lease of this server passes, then
            await self._shared.writer.do(let_go, self.session)
        if follower is not None and error is not None:
            follower.end(error)

    async def _accept(self, request: TurnRequest, follower: Subscriber) -> None:
        await self._settle_doubt()
        if (known := await self._known(request)) is not None:
            follower.attach(request.turn_id, known)
            return
        pending = await self._prepare(request)
        with self.engine.in_use():
            self._doubtful = pending
            await self._shared.writer.do(self.turns.history.add_turn, self.session, pending.turn)
            self._doubtful = None
            self._next_number += 1
            if self._abandoned and not self.session.options.continue_when_disconnected:
                pending.discard = False
            if not self.closed:
                follower.attach(request.turn_id, None)
                self.turns.add(pending)

    async def _settle_doubt(self) -> None:
        """A turn whose keeping failed may have been kept after all: then it runs."""
        if (pending := self._doubtful) is None:
            return
        kept = await self._shared.writer.do(self.turns.history.find_turn, self.session.key, pending.turn.turn_id)
        self._doubtful = None
        if kept is not None and not self.closed:
            self._next_number += 1
            self.turns.add(pending)

    def _note_idle(self) -> None:
        """A turn that was refused or known has no events by which anybody would hear that it is over."""
        if self.idle and not self.closed:
            if self._follower is not None:
                self._follower.idle()
            self._note_activity()

    def _tell(self, event: Event) -> None:
        if self._follower is not None:
            self._follower.hear(event)
        if self.idle:
            self._note_activity()

    def _check_open(self) -> None:
        if self._closed_by is not None:
            raise self._closed_by
        if self.closed or self.engine.closed:
            raise not_loaded(self.engine.published.reference)

    async def _known(self, request: TurnRequest) -> Repeat | None:
        if (pending := self.turns.find(request.turn_id)) is not None:
            _check_same(pending.turn, request)
            return Repeat(tuple(pending.events), ended=False)
        turn = await self._shared.writer.do(self.turns.history.find_turn, self.session.key, request.turn_id)
        if turn is None:
            return None
        _check_same(turn, request)
        if (pending := self.turns.find(request.turn_id)) is not None:
            return Repeat(tuple(pending.events), ended=False)
        if turn.result is None and self.closed:  # who follows hears why, and it runs where the session is opened next
            return Repeat((), ended=False)
        if turn.result is None:  # another server accepted it
            what = f"{self.session.name} was opened at another server"
            raise Aborted(Reason.SESSION_TAKEN_OVER, what, session=self.session.name)
        return Repeat(self._told(turn), ended=True)

    def _told(self, turn: Turn) -> tuple[Event, ...]:
        """Events of a turn that ended: as they were if they are still kept, else joined to one piece."""
        assert turn.result is not None, turn
        kept = self.turns.log.of_turn(turn.turn_id)
        first = turn.result.started_sequence or turn.result.finished_sequence
        whole = kept and kept[0].sequence == first and kept[-1].sequence == turn.result.finished_sequence
        return tuple(kept) if whole else retell(turn, turn.result)

    async def _prepare(self, request: TurnRequest) -> Pending:
        if self.turns.waiting >= MOST_WAITING:
            message = f"{MOST_WAITING} turns wait already; send the next when one has finished"
            raise ResourceExhausted(Reason.TURN_QUEUE_FULL, message, retry_after_s=1.0, waiting=MOST_WAITING)
        self.engine.check_room(self._shared.settings.waiting_turns)
        manifest, text = self.engine.manifest, self.engine.text
        options = options_of(request, manifest, text, self._shared.settings)
        find = partial(prompt_of, request, self.session, manifest, text)
        prompt = await asyncio.to_thread(find) if len(request.body()) > _LONG_TEXT else find()
        if not self.turns.pending:
            check_room(self.session, len(prompt) + (not request.no_reply))
        self._check_open()
        return Pending(Turn(self._next_number, request, options, utc_now()), prompt, time.monotonic())

    def _note_activity(self) -> None:
        """Keep when the session expires, if that has changed: never while it is busy."""
        expires_at = None if self.busy else self.session.expiry(utc_now())
        if (expires_at is None) != (self.session.expires_at is None):
            session = self.turns.session = replace(self.session, expires_at=expires_at)
            self._shared.background.start(self._keep_expiry(session), f"expiry of {session.name}")

    async def _keep_expiry(self, session: Session) -> None:
        try:
            await self._shared.writer.do(self._shared.repository.set_expiry, session)
        except SinkServeError as error:
            self._break_down(error)


def _check_same(turn: Turn, request: TurnRequest) -> None:
    if turn.request.digest() != request.digest():
        raise AlreadyExists(
            Reason.TURN_ID_REUSED,
            f"turn_id {request.turn_id!r} was used in this session for another turn; choose a new one",
            field="turn.turn_id",
            turn_id=request.turn_id,
        )
