"""One session in memory: who is subscribed to it, which turns it accepts, and when its time is up.

Belongs to the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import partial

from common.auth.quotas import UNBOUNDED, Quotas
from common.db.database import utc_now
from common.engine.engine import SlotState
from common.errors import Aborted, Reason, SinkServeError
from runtime_service.domain.options import GenerationOptions, RequestedOptions
from runtime_service.domain.session import Session
from runtime_service.domain.turn import TurnRequest
from runtime_service.engines.loaded_engine import LoadedEngine
from runtime_service.scheduling.slots import Residence
from runtime_service.turns.ephemeral import TurnHistory
from runtime_service.turns.events import Event
from runtime_service.turns.input import options_of
from runtime_service.turns.intake import TurnIntake
from runtime_service.turns.pending import PendingTurn
from runtime_service.turns.queue import TurnQueue
from runtime_service.turns.session_state import SessionState
from runtime_service.turns.shared import Shared
from runtime_service.turns.subscriber import Subscriber


class LiveSession:
    """Life: made by `SessionRegistry`, subscribed to by at most one stream, `unload`ed when it leaves memory."""

    def __init__(
        self,
        session: Session,
        engine: LoadedEngine,
        shared: Shared,
        next_number: int,
        on_broken: Callable[[LiveSession, SinkServeError], None],
    ) -> None:
        self.state = SessionState.of(session, engine, shared)
        self._on_broken = partial(on_broken, self)
        self.turns = TurnQueue(self.state, self._publish, self._on_broken)
        self._intake = TurnIntake(self.state, self.turns, next_number)
        self._subscriber: Subscriber | None = None
        self._abandoned = False  # the last subscriber was lost

    @property
    def session(self) -> Session:
        """Its row as last written."""
        return self.state.session

    @property
    def engine(self) -> LoadedEngine:
        """What runs its turns."""
        return self.state.engine

    @property
    def history(self) -> TurnHistory:
        """What keeps its turns."""
        return self.state.history

    @property
    def residence(self) -> Residence:
        """Where its cache is."""
        return self.state.residence

    @property
    def recomputes(self) -> bool:
        """Whether its cache has to be computed again from its tokens before the next turn."""
        return self.state.recomputes

    @property
    def generation(self) -> GenerationOptions:
        """What its turns use where they say nothing; the seed is drawn for each."""
        engine, settings = self.state.engine, self.state.settings
        return options_of(RequestedOptions(), engine.manifest, engine.text, settings)

    @property
    def closed(self) -> bool:
        """Whether it leaves memory, or has left."""
        return self.state.closed

    @property
    def idle(self) -> bool:
        """No turn runs, waits or is being accepted."""
        return not self.turns.pending and self._intake.idle

    @property
    def busy(self) -> bool:
        """It has a subscriber, or is not idle."""
        return self._subscriber is not None or not self.idle

    @property
    def last_sequence(self) -> int:
        """The number of its last event."""
        return self.state.log.last

    @property
    def running_turns(self) -> int:
        """Turns that have a slot."""
        return 0 if self.state.tenant.suspended else sum(pending.has_slot for pending in self.turns.pending)

    @property
    def waiting_turns(self) -> int:
        """Turns that were accepted and have no slot: they wait for one, or for their client to read."""
        return len(self.turns.pending) - self.running_turns

    @property
    def parked_bytes(self) -> int:
        """Host memory that its cache takes."""
        parked = self.state.tenant.parked
        return 0 if parked is None else parked.size_bytes

    def events_since(self, sequence: int) -> list[Event]:
        """Events after `sequence`; raises OutOfRange (EVENTS_EXPIRED) if some are not kept any more."""
        return self.state.log.since(sequence)

    def subscribe(self, subscriber: Subscriber) -> None:
        """Let `subscriber` have every event from now on; the one before loses the session (SESSION_TAKEN_OVER)."""
        before, self._subscriber = self._subscriber, subscriber
        self._abandoned = False
        if before is not None:
            what = f"another stream opened {self.session.name}"
            before.on_lost(Aborted(Reason.SESSION_TAKEN_OVER, what, session=self.session.name))
        self.turns.pause(paused=False)
        self.update_expiry()

    def unsubscribe(self, subscriber: Subscriber, *, lost: bool) -> None:
        """End a subscription; if the stream was `lost`, turns are cancelled unless the session says otherwise."""
        if self._subscriber is not subscriber:
            return
        self._subscriber = None
        self._abandoned = lost
        if self._cancels_turns():
            for pending in self.turns.pending:
                self.turns.cancel_turn(pending.turn_id, discard=False)
        self.turns.pause(paused=False)
        self.update_expiry()

    def pause(self, subscriber: Subscriber, *, paused: bool) -> None:
        """Stop feeding the running turn because `subscriber` does not read, or go on."""
        if self._subscriber is subscriber:
            self.turns.pause(paused=paused)

    async def accept_turn(self, request: TurnRequest, subscriber: Subscriber, quotas: Quotas = UNBOUNDED) -> None:
        """Take a turn, durably; one that is known is not run again. `subscriber` is told which it is.

        Raises what `TurnIntake.accept` does.
        """
        try:
            await self._intake.accept(request, subscriber.on_accepted, cancelled=self._cancels_turns, quotas=quotas)
        except Aborted as error:
            self._on_broken(error)
            raise
        finally:
            self._note_idle()

    def run_turns(self, restored: list[PendingTurn]) -> None:
        """Run turns that were accepted before the session was in memory."""
        for pending in restored:
            self.turns.add(pending)

    async def cancel_turn(self, turn_id: str, *, discard: bool) -> None:
        """Cancel a turn that runs, waits or is being accepted; any other stays as it is."""
        if self.turns.find(turn_id) is None:
            await self._intake.accepted()
        self.turns.cancel_turn(turn_id, discard=discard)

    async def export_cache(self) -> SlotState | None:
        """A copy of its cache, if there is one."""
        return await self.turns.export_cache()

    def announce_drain(self, grace_s: float) -> None:
        """Tell the subscriber that the server is stopping."""
        if self._subscriber is not None:
            self._subscriber.on_drain(grace_s)

    def update_expiry(self) -> None:
        """Write when the session expires, if that has changed: never while it is busy."""
        expires_at = None if self.busy else self.session.expiry(utc_now())
        if (expires_at is None) != (self.session.expires_at is None):
            self._set_expiry(self.session, expires_at)

    def adopt(self, kept: Session) -> None:
        """Go by the labels, options and pins of `kept`, which changed; its time runs anew if that is another now."""
        same = kept.options.delete_after_idle_s == self.session.options.delete_after_idle_s
        expires_at = kept.expires_at or self.session.expires_at if same else kept.expiry(utc_now())
        session = replace(self.session, labels=kept.labels, options=kept.options, pins=kept.pins)
        self._set_expiry(session, None if self.busy else expires_at)

    async def unload(self, error: SinkServeError | None = None, *, keep_cache: bool = False) -> None:
        """Leave memory, let other servers have the session if it is kept, and end the subscription with `error`.

        Its cache is kept where it may be wanted again.
        """
        state, shared = self.state, self.state.shared
        state.closed, state.closed_by = True, error
        subscriber, self._subscriber = self._subscriber, None
        cache = await self.turns.stop(keep=keep_cache)
        await shared.caches.keep(self.session, cache)
        let_go = shared.claims.release if self.session.is_kept else shared.repository.delete
        with suppress(SinkServeError):  # the lease of this server passes, then
            await state.write(partial(let_go, self.session))
        if subscriber is not None and error is not None:
            subscriber.on_lost(error)

    async def unload_for_others(self, error: SinkServeError) -> None:
        """As `unload`; its cache is kept where other servers find it, or not at all."""
        await self.unload(error, keep_cache=self.state.keeps_snapshots)

    async def finish_turns(self, timeout_s: float) -> None:
        """Wait until no turn runs or waits, or for `timeout_s`."""
        if self.turns.task is not None:
            await asyncio.wait([self.turns.task], timeout=timeout_s)

    def _cancels_turns(self) -> bool:
        return self._abandoned and not self.session.survives_disconnect

    def _note_idle(self) -> None:
        """Tell the subscriber that nothing runs: a turn that was refused, or is known, has no events that say so."""
        if self.idle and not self.closed:
            if self._subscriber is not None:
                self._subscriber.on_idle()
            self.update_expiry()

    def _publish(self, event: Event) -> None:
        if self._subscriber is not None:
            self._subscriber.on_event(event)
        if self.idle:
            self.update_expiry()

    def _set_expiry(self, session: Session, expires_at: datetime | None) -> None:
        self.state.session = session = replace(session, expires_at=expires_at)
        self.state.in_background(self._write_expiry(session), "expiry")

    async def _write_expiry(self, session: Session) -> None:
        try:
            await self.state.write(partial(self.state.shared.repository.set_expiry, session))
        except SinkServeError as error:
            self._on_broken(error)
