"""The rules of one stream, over plain data: open first and once, turns, cancels, how it ends. No gRPC.

Who drives it calls `receive` for each request, `no_more` at a half-close, `lost` when the client is gone, and sends
what comes out of `outbox`. A stream that was opened without `after_sequence` hears of the turns that it names; one
with it hears of everything after it. A turn that runs without a stream of requests is a conversation with `one_turn`.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress

from common.auth.principal import EVERY_ENGINE, EngineScope
from common.auth.quotas import UNBOUNDED, Quotas
from common.errors import FailedPrecondition, NotFound, Reason, ResourceExhausted, SinkServeError
from runtime_service.api.outbox import Outbox
from runtime_service.api.reader_pace import ReaderPace
from runtime_service.api.requests import Cancel, Close, Open, Refused, Request, session_id_of
from runtime_service.api.stream_age import StreamAge, too_old
from runtime_service.domain.session import NewSession
from runtime_service.domain.turn import TurnRequest, check_turn_id
from runtime_service.sessions.live_session import LiveSession
from runtime_service.sessions.ownership import draining
from runtime_service.sessions.registry import SessionRegistry
from runtime_service.turns.events import Event, GoAway, Heartbeat, Opened, TurnFinished, TurnRejected
from runtime_service.turns.known import KnownTurn

_REMEMBERED = 32
_SHOWN_ID = 100  # characters of an id that no turn can have


class ConversationStream:
    """One stream. With `one_turn` it ends with its turn, or with the error for which that was not accepted."""

    def __init__(
        self,
        sessions: SessionRegistry,
        principal: str,
        scope: EngineScope = EVERY_ENGINE,
        quotas: Quotas = UNBOUNDED,
        *,
        one_turn: bool = False,
    ) -> None:
        self._sessions = sessions
        self._principal = principal
        self._scope = scope
        self._quotas = quotas
        self._one_turn = one_turn
        self._settings = sessions.settings
        self.outbox = Outbox(self._settings.unread_events, self._note_full)
        self._live: LiveSession | None = None
        self._floor = 0
        self._hears_all = False
        self._named: set[str] = set()  # turns that run or wait
        self._ended: deque[str] = deque(maxlen=_REMEMBERED)
        self._ending = False
        self._delete = False
        self._pace = ReaderPace(self.outbox, self._settings.slow_reader_s, self._give_up)
        age_s = 0.0 if one_turn else self._settings.max_stream_age_s
        self._age = StreamAge(self, age_s, self._settings.stream_leave_s)

    @property
    def session(self) -> str | None:
        """Name of the session that it is on, once it is open."""
        return None if self._live is None else self._live.session.name

    @property
    def window_tokens(self) -> int:
        """Window of that session; 0 before."""
        return 0 if self._live is None else self._live.session.window.window

    async def wants_more(self) -> bool:
        """Wait until the client has read enough to ask for more; False: the stream ends and takes nothing any more."""
        await self.outbox.room()
        return not self.outbox.closed

    async def receive(self, request: Request) -> None:
        """Take one request; raises what ends the stream."""
        match request:
            case Open():
                await self._open(request)
            case TurnRequest():
                await self._turn(self._opened(), request)
            case Refused():
                self._opened()
                self._refuse(request.turn_id, request.error)
            case Cancel():
                check_turn_id(request.turn_id, "cancel.turn_id")
                await self._opened().cancel_turn(request.turn_id, discard=request.discard)
            case Close():
                self._opened()
                self._delete = request.delete_session
                self.no_more()

    def no_more(self) -> None:
        """No more requests come: the stream ends when the accepted turns have finished."""
        self._ending = True
        self._end_if_done()

    def lost(self, error: SinkServeError | None = None) -> None:
        """The client is gone, or has to go because of `error`."""
        self._stop_clocks()
        if self._live is not None:
            self._live.unsubscribe(self, lost=True)
        self.outbox.close(error)

    def silence(self) -> tuple[Event, ...]:
        """What to send when nothing happened for long; nothing before `opened`, which comes first."""
        return () if self._live is None else (Event(0, Heartbeat()),)

    async def finish(self) -> None:
        """The stream ended as it should; delete the session if that was asked for."""
        if self._delete:
            with suppress(NotFound):
                delete = self._sessions.delete(self._principal, self._opened().session.session_id)
                await self._sessions.complete(delete, "delete")

    # What the session tells

    def on_accepted(self, turn_id: str, known: KnownTurn | None) -> None:
        """A turn that this stream named was accepted, or is known: then its events so far."""
        again = turn_id in self._named or turn_id in self._ended
        if known is not None and known.ended:
            self._remember(turn_id)
        else:
            self._named.add(turn_id)
        if known is None:
            return
        told = again or self._hears_all
        if known.ended:
            told = self._hears_all and known.events[-1].sequence > self._floor and not again
        if not told:
            self.outbox.put(*known.events)

    def on_event(self, event: Event) -> None:
        """An event of a turn."""
        if self._hears_all or event.turn_id in self._named:
            self.outbox.put(event)
        if isinstance(event.body, TurnFinished):
            if event.turn_id in self._named:
                self._remember(event.turn_id)
            self._end_if_done()
            self._age.between_turns()

    def on_idle(self) -> None:
        """Nothing runs, waits or is being accepted."""
        self._end_if_done()
        self._age.between_turns()

    def go_away(self, grace_s: float) -> None:
        """Ask the client to leave within so long."""
        self.outbox.put(Event(0, GoAway(grace_s)))

    def on_drain(self, grace_s: float) -> None:
        """The server is stopping."""
        self.go_away(grace_s)

    @property
    def resting(self) -> bool:
        """Whether nothing of its session runs, waits or is being accepted."""
        return self._live is None or self._live.idle

    def expire(self, error: SinkServeError) -> None:
        """End with `error`; the session stays as it is."""
        self._part(error)

    def on_lost(self, error: SinkServeError) -> None:
        """The session is no longer this stream's."""
        self._stop_clocks()
        self.outbox.close(error)

    # How requests are taken

    def _opened(self) -> LiveSession:
        if self._live is None:
            what = "the first message of a stream has to be `open`"
            raise FailedPrecondition(Reason.STREAM_NOT_OPEN, what, field="open")
        return self._live

    async def _open(self, request: Open) -> None:
        if self._live is not None:
            what = "the stream is open already; `open` comes first, and once"
            raise FailedPrecondition(Reason.STREAM_ALREADY_OPEN, what, field="open")
        await self._sessions.complete(self._enter(request), "open")

    async def _enter(self, request: Open) -> None:
        live, resumed = await self._find(request.target)
        try:
            if not self.outbox.closed:
                self._subscribe(live, request, resumed=resumed)
        finally:
            live.update_expiry()

    def _subscribe(self, live: LiveSession, request: Open, *, resumed: bool) -> None:
        missed = [] if request.after_sequence is None else live.events_since(request.after_sequence)
        self._hears_all = request.after_sequence is not None
        self._floor = live.last_sequence if request.after_sequence is None else request.after_sequence
        opened = Opened(
            session=live.session,
            residence=live.residence,
            resumed=resumed,
            events_replayed=bool(missed),
            kv_recomputed=live.recomputes,
            generation=live.generation,
        )
        self.outbox.put(Event(0, opened), *missed)
        self._live = live
        live.subscribe(self)
        if self.outbox.is_full:
            live.pause(self, paused=True)
        self._age.start()

    async def _find(self, target: NewSession | str) -> tuple[LiveSession, bool]:
        if isinstance(target, NewSession):
            return await self._sessions.create(self._principal, target, self._scope, self._quotas)
        session_id = session_id_of(target, "open.session")
        return await self._sessions.open(self._principal, session_id, self._scope, self._quotas), True

    async def _turn(self, live: LiveSession, request: TurnRequest) -> None:
        try:
            if self._sessions.draining:
                raise draining()
            if self._age.asked:
                raise too_old()
            request = request.with_id()
            accept = live.accept_turn(request, self, self._quotas)
            await self._sessions.complete(accept, f"turn {request.turn_id}")
        except SinkServeError as error:
            self._refuse(request.turn_id, error)

    def _refuse(self, turn_id: str, error: SinkServeError) -> None:
        if self._one_turn:
            self._part(error)
        else:
            self._sessions.shared.meter.calls.refused(error)
            self.outbox.put(Event(0, TurnRejected(error), turn_id[:_SHOWN_ID]))

    def _remember(self, turn_id: str) -> None:
        """A turn has ended."""
        self._named.discard(turn_id)
        if turn_id not in self._ended:
            self._ended.append(turn_id)

    # How it ends

    def _end_if_done(self) -> None:
        if self._ending and self._done:
            self._part()

    @property
    def _done(self) -> bool:
        if self.resting:
            return True
        return self._one_turn and not self._named

    def _part(self, error: SinkServeError | None = None) -> None:
        """End the stream and leave the session's turns as they are."""
        self._stop_clocks()
        if self._live is not None:
            self._live.unsubscribe(self, lost=False)
        self.outbox.close(error)

    def _note_full(self, full: bool) -> None:
        """A client that does not read pauses its own turns, for a bounded time."""
        if self._live is not None:
            self._live.pause(self, paused=full)
        if full:
            self._pace.note_full()

    def _give_up(self) -> None:
        what = f"what waited for the client was not read in {self._settings.slow_reader_s:g} s (slow_reader_s)"
        self.lost(ResourceExhausted(Reason.READER_TOO_SLOW, what))

    def _stop_clocks(self) -> None:
        self._pace.stop()
        self._age.stop()
