"""One turn from the queue to its durable end: given to the scheduler, its events published, its result written.

The result is written before its event is published, so what a client has read is never taken back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import structlog

from common.db.database import utc_now
from common.errors import Internal, Reason, SinkServeError
from common.panics import pass_on_ends
from runtime_service.decoding.delta import Delta
from runtime_service.decoding.text import Text
from runtime_service.domain.session import Session
from runtime_service.domain.turn import FinishReason, Result, Timing, Turn, Usage, format_matched
from runtime_service.domain.turn_span import turn_span
from runtime_service.domain.window_view import TurnStart, WindowNotice
from runtime_service.recall.budget import recalls
from runtime_service.recall.own_tokens import indexed
from runtime_service.scheduling.running_turn import Outcome
from runtime_service.scheduling.scheduler_events import NeedsHistory, SchedulerEvent, TurnAdmitted
from runtime_service.scheduling.turn_scheduler import TurnScheduler
from runtime_service.turns.events import Event, TurnEvent, TurnFinished, TurnStarted
from runtime_service.turns.input import as_first, begins_otherwise, matcher_of, text_of
from runtime_service.turns.pending import PendingTurn
from runtime_service.turns.session_state import SessionState, patiently

MOST_CRASHES = 2

log = structlog.get_logger()


class TurnRun:
    """Life: `run` once; meanwhile `cancel`. When the task that runs it was cancelled, `is_written` or `stop`."""

    def __init__(self, state: SessionState, pending: PendingTurn, publish: Callable[[Event], None]) -> None:
        self.pending = pending
        self._state = state
        self._publish = publish
        self._writing: asyncio.Task[None] | None = None  # the result, on its way to the database

    async def run(self) -> Event:
        """Run the turn and write how it ended; returns the event that says so, which is not published yet."""
        state, turn = self._state, self.pending.turn
        if turn.attempt > 1:
            await state.write_patiently(partial(state.history.note_attempt, state.session, turn))
        outcome, notice = self._viewed(await self._outcome())
        turn = self._finished(outcome, notice)
        assert turn.result is not None
        self._writing = asyncio.create_task(self._write_end(turn, outcome.tokens), name=f"end of {turn.turn_id}")
        await asyncio.shield(self._writing)
        engine = state.engine.published.reference
        state.shared.meter.turn_ended(state.session.name, turn.turn_id, engine, outcome)
        if turn.options.response_format is not None and turn.result.format_matched is not None:
            form = turn.options.response_format.form
            state.shared.meter.form_ended(engine, form, matched=turn.result.format_matched)
        if state.shared.traces.on:
            state.shared.traces.record(turn_span(state.session, turn, time.time()), self.pending.caller_span)
        return self._log(TurnFinished.of(turn.result))

    def cancel_turn(self) -> None:
        """End the turn as `pending.discard` says, if the scheduler has it; else it is not given to it."""
        turn_id, discard = self.pending.turn_id, bool(self.pending.discard)
        if self.pending.outcome is not None:
            self._post(lambda scheduler: scheduler.cancel_turn(self._state.tenant, turn_id, discard=discard))

    async def is_written(self) -> bool:
        """Whether the result was written although `run` was cancelled; a write that is on its way is awaited."""
        if self._writing is None:
            return False
        await asyncio.wait([self._writing])
        return self._writing.exception() is None

    async def note_stop(self) -> None:
        """Write that the server was stopped in good order while the turn ran: it counts as no crash."""
        turn = replace(self.pending.turn, stops=self.pending.turn.stops + 1)
        await self._state.write(partial(self._state.history.note_attempt, self._state.session, turn))

    async def _outcome(self) -> Outcome:
        turn = self.pending.turn
        session, text = self._state.session, text_of(self._state.session, self._state.engine)
        if begins_otherwise(turn.request, session, text):  # only now is it known which turn is the first
            self.pending.work = await asyncio.to_thread(as_first, self.pending.work, turn.request, session, text)
        if turn.attempt - turn.stops > MOST_CRASHES:
            what = f"the server died {MOST_CRASHES} times while it ran this turn"
            return self._not_run(FinishReason.ERROR, Internal(Reason.INTERNAL, what))
        try:
            matcher = await matcher_of(turn, session, self._state.engine)
        except SinkServeError as error:  # it was accepted elsewhere, or by another release
            return self._not_run(FinishReason.ERROR, error)
        self.pending.work = replace(self.pending.work, matcher=matcher)
        if recalls(session, turn.request):
            await self._recall(session, text)
        if self.pending.discard is not None:
            return self._not_run(FinishReason.CANCELLED)
        self.pending.outcome = asyncio.get_running_loop().create_future()
        self._post(lambda scheduler: scheduler.submit(self._state.tenant, self.pending.work, self._on_scheduler_event))
        return await self.pending.outcome

    async def _recall(self, session: Session, text: Text) -> None:
        """Put turns that have left the window before the prompt."""
        work = self.pending.work
        choose = partial(self._state.recall.choose, session, self.pending.turn.request, text, len(work.prompt))
        chosen = await patiently(partial(asyncio.to_thread, choose))
        self.pending.recalled = chosen.turns
        self.pending.work = replace(work, prompt=chosen.tokens + work.prompt, recalled_tokens=len(chosen.tokens))

    def _not_run(self, reason: FinishReason, error: SinkServeError | None = None) -> Outcome:
        position = self._state.session.position
        timing = Timing(queue_s=time.monotonic() - self.pending.work.accepted_at)
        return Outcome(reason, Usage(position=position), timing, position, error=error)

    def _on_scheduler_event(self, event: SchedulerEvent) -> None:
        """What the scheduler emits, in the event loop."""
        turn = self.pending.turn
        match event:
            case TurnAdmitted():
                pending = self.pending
                started = TurnStarted(len(pending.work.prompt), turn.attempt, turn.options, pending.recalled)
                self._publish(self._log(started))
            case Delta() as delta:
                self._publish(self._log(delta))
            case NeedsHistory(tokens):
                self._state.in_background(self._refill(tokens), "history")
            case Outcome() as outcome:
                if self.pending.outcome is not None and not self.pending.outcome.done():
                    self.pending.outcome.set_result(outcome)

    async def _refill(self, tokens: int) -> None:
        """Give the scheduler the cache if it is kept, and the last `tokens` of the history."""
        state, session = self._state, self._state.session
        try:
            cache = await patiently(partial(state.shared.caches.fetch, session))
            if cache is not None:
                tokens = max(session.window.window, session.position - cache.position)
            history = await state.write_patiently(partial(state.history.history, session, tokens))
        except BaseException as error:
            pass_on_ends(error)
            log.exception("session.history_unreadable", session=session.name, turn=self.pending.turn_id)
            failure = Internal(Reason.INTERNAL, "the session's history could not be read")
            self._post(lambda scheduler: scheduler.fail_turn(state.tenant, failure))
        else:
            self._post(lambda scheduler: scheduler.refill(state.tenant, *history, cache))

    def _viewed(self, outcome: Outcome) -> tuple[Outcome, WindowNotice | None]:
        """The outcome with what the model sees after the turn; and what left meanwhile, for who wants to be told.

        What has left once counts as gone: an engine that is sent its window anew may see a little of it again.
        """
        session, usage, turns = self._state.session, outcome.usage, self._state.whole_turns
        before = after = session.window_start_position
        if outcome.tokens:
            assert usage.window_start_position is not None, usage
            after = max(before, usage.window_start_position)
        begun = TurnStart(session.position, self.pending.turn_id)
        notice = turns.add(begun, session.position + len(outcome.tokens), before, after)
        usage = replace(
            usage, window_start_position=after, oldest_visible_turn=turns.oldest, evicted_tokens=after - before
        )
        return replace(outcome, usage=usage), notice if session.notifies else None

    def _finished(self, outcome: Outcome, notice: WindowNotice | None) -> Turn:
        usage = outcome.usage
        result = Result(
            reason=outcome.reason,
            usage=usage,
            timing=outcome.timing,
            prompt_tokens=len(self.pending.work.prompt),
            text=outcome.text,
            token_ids=outcome.tokens[usage.prompt_tokens :][: usage.generated_tokens],
            reasoning=outcome.reasoning,
            tool_calls=outcome.tool_calls,
            stop_sequence=outcome.stop_sequence,
            error=outcome.error,
            recalled=self.pending.recalled,
            notice=notice,
            format_matched=format_matched(self.pending.turn.options, outcome.reason, outcome.stop_sequence),
            started_sequence=self.pending.started_sequence,
            finished_sequence=self._state.log.last + 1,
        )
        return replace(self.pending.turn, result=result, ended_at=utc_now())

    async def _write_end(self, turn: Turn, tokens: tuple[int, ...]) -> None:
        state = self._state
        assert turn.result is not None
        assert turn.ended_at is not None
        session = state.session.after(turn.result, turn.ended_at)
        await state.write_patiently(partial(self._finish, session, turn, tokens))
        state.session = state.session.after(turn.result, turn.ended_at)
        state.recall.note(turn.result, len(tokens))

    def _finish(self, session: Session, turn: Turn, tokens: tuple[int, ...]) -> None:
        state = self._state
        text = text_of(session, state.engine)
        words = indexed(turn, len(tokens), text) if session.options.recall_tokens else None
        state.history.finish_turn(session, turn, tokens, words)

    def _log(self, body: TurnEvent) -> Event:
        event = self._state.log.append(self.pending.turn_id, body)
        self.pending.note(event)
        return event

    def _post(self, act: Callable[[TurnScheduler], None]) -> None:
        self._state.engine.thread.post(act)
