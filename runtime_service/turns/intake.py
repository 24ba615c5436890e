"""How a session accepts turns: one at a time, each durable before it is accepted, and none twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from common.auth.quotas import UNBOUNDED, Quotas
from common.db.database import utc_now
from common.errors import Aborted, Reason, ResourceExhausted
from common.tracing.span import caller_span, request_id
from runtime_service.domain.turn import TurnRequest
from runtime_service.recall.budget import check_recall
from runtime_service.storage.claims import check_kept
from runtime_service.turns.input import check_length, check_room, matcher_of, prepare_turn
from runtime_service.turns.known import KnownTurn, check_same_turn, ended_turn, running_turn
from runtime_service.turns.pending import PendingTurn
from runtime_service.turns.queue import TurnQueue
from runtime_service.turns.session_state import SessionState

MOST_WAITING = 8
_LONG = 20_000  # bytes in memory of a request whose tokens are found outside the event loop

OnAccepted = Callable[[str, KnownTurn | None], None]


class TurnIntake:
    """`on_accepted` of a turn is called before the turn can run."""

    def __init__(self, state: SessionState, queue: TurnQueue, next_number: int) -> None:
        self._state = state
        self._queue = queue
        self._next_number = next_number
        self._doubtful: PendingTurn | None = None  # nobody knows whether it was written
        self._lock = asyncio.Lock()
        self._waiting = 0

    @property
    def idle(self) -> bool:
        """No turn is being accepted."""
        return not self._waiting

    async def accept(
        self,
        request: TurnRequest,
        on_accepted: OnAccepted,
        *,
        cancelled: Callable[[], bool],
        quotas: Quotas = UNBOUNDED,
    ) -> None:
        """Take a turn, durably; one that is known is not run again. It does not run if it is `cancelled` by then.

        Raises what is wrong with it, its length first, which costs nothing; AlreadyExists (TURN_ID_REUSED);
        ResourceExhausted (TURN_QUEUE_FULL, CAPACITY_EXHAUSTED, QUOTA_EXCEEDED); Aborted (SESSION_TAKEN_OVER).
        """
        check_length(request, self._state.session, self._state.engine.text)
        check_recall(self._state.session, request)
        self._waiting += 1
        try:
            async with self._lock:
                await self._accept(request, on_accepted, cancelled, quotas)
        finally:
            self._waiting -= 1

    async def accepted(self) -> None:
        """Wait until no turn is being accepted that is now."""
        if self._waiting:
            async with self._lock:
                pass

    async def _accept(
        self, request: TurnRequest, on_accepted: OnAccepted, cancelled: Callable[[], bool], quotas: Quotas
    ) -> None:
        await self._settle_doubt()
        if (known := await self._known(request)) is not None:
            on_accepted(request.turn_id, known)
            return
        principal = self._state.session.principal
        if quotas.has_tokens:
            check = partial(self._state.shared.quotas.check_tokens, principal, quotas, utc_now())
            await self._state.write(check)
        with self._state.shared.turn_counts.taken_in(principal, quotas):
            await self._take(request, on_accepted, cancelled)

    async def _take(self, request: TurnRequest, on_accepted: OnAccepted, cancelled: Callable[[], bool]) -> None:
        pending = await self._prepare(request)
        with self._state.engine.in_use():
            self._doubtful = pending
            await self._state.write(partial(self._state.history.add_turn, self._state.session, pending.turn))
            self._doubtful = None
            self._next_number += 1
            if cancelled():
                pending.discard = False
            if not self._state.closed:
                on_accepted(request.turn_id, None)
                self._queue.add(pending)

    async def _settle_doubt(self) -> None:
        """A turn whose writing failed may have been written after all: then it runs."""
        if (pending := self._doubtful) is None:
            return
        find = partial(self._state.history.find_turn, self._state.session.key, pending.turn_id)
        written = await self._state.write(find)
        self._doubtful = None
        if written is not None and not self._state.closed:
            self._next_number += 1
            self._queue.add(pending)

    async def _known(self, request: TurnRequest) -> KnownTurn | None:
        if (pending := self._queue.find(request.turn_id)) is not None:
            check_same_turn(pending.turn, request)
            return running_turn(pending, self._state.log)
        state = self._state
        turn = await state.write(partial(state.history.find_turn, state.session.key, request.turn_id))
        if turn is None:
            return None
        check_same_turn(turn, request)
        if (pending := self._queue.find(request.turn_id)) is not None:
            return running_turn(pending, self._state.log)
        if turn.result is None and state.closed:  # `on_lost` says why; the turn runs where the session is opened next
            return KnownTurn((), ended=False)
        if turn.result is None:  # another server accepted it
            what = f"{state.session.name} was opened at another server"
            raise Aborted(Reason.SESSION_TAKEN_OVER, what, session=state.session.name)
        return ended_turn(turn, state.log)

    async def _prepare(self, request: TurnRequest) -> PendingTurn:
        waiting = self._queue.waiting
        if len(waiting) >= MOST_WAITING:
            message = f"{MOST_WAITING} turns wait already; send the next when one has finished"
            raise ResourceExhausted(Reason.TURN_QUEUE_FULL, message, retry_after_s=1.0, waiting=MOST_WAITING)
        state = self._state
        state.shared.waiting.check_room(request.size_bytes, waiting, state.settings)
        state.engine.check_room(state.settings.waiting_turns)
        prepare = partial(prepare_turn, request, self._next_number, state.session, state.engine, state.settings)
        with state.shared.waiting.taken_in(request.size_bytes):
            pending = await asyncio.to_thread(prepare) if request.size_bytes > _LONG else prepare()
        await matcher_of(pending.turn, state.session, state.engine)  # refused before it is accepted
        pending.caller_span, pending.request_id = caller_span.get(), request_id.get()
        if request.recall is not None and request.recall.turn_ids:
            await self._check_named(request, len(pending.work.prompt))
        if not self._queue.pending:
            check_room(state.session, len(pending.work.prompt) + (not request.no_reply))
        state.check_open()
        return pending

    async def _check_named(self, request: TurnRequest, prompt: int) -> None:
        session = self._state.session
        check_kept(session)
        await asyncio.to_thread(self._state.recall.check_named, session, request, prompt)
