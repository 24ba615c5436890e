"""What may be done to sessions, each with what the model expects of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace

from common.errors import Reason, SinkServeError
from runtime_service.api.requests import Close, Open
from runtime_service.api.stream import ConversationStream
from runtime_service.domain.session import NewSession, OnDisconnect
from runtime_service.domain.turn import TurnRequest
from runtime_service.turns.events import TurnFinished
from runtime_service.turns.intake import MOST_WAITING
from tests.service.session_model.known import Known
from tests.service.session_model.line import Line
from tests.service.session_model.replica import MAX_SESSIONS, PRINCIPAL, Replica
from tests.service.session_model.sessions import ModelSession, ModelTurn, rejections


class Acts(Known):
    """Each returns when what it did has come to its end, as far as that has one."""

    def read(self) -> None:
        """Every client reads again."""
        for line in self.world.open_lines:
            line.reading.set()

    async def check(self, session_ids: Collection[str]) -> None:
        """Every session is as the model says, and nobody heard anything else."""
        for session_id in session_ids:
            kept, session = self.world.kept(session_id), self.model.get(session_id)
            assert (kept is None) == (session is None), session_id
            if kept is not None and session is not None:
                session.check_kept(*kept, self.world.here.handle.engines.loaded[0].text)
        for line in self.world.lines:
            if (session := line.session) is not None and self.model.get(line.session_id) is session:
                session.check_heard(line.heard)
        for session in self.model.values():
            session.check_order()
        for replica in self.world.replicas:
            assert len(replica.handle.sessions.live) <= MAX_SESSIONS
            assert all(len(live.turns.waiting) <= MOST_WAITING for live in replica.handle.sessions.live)

    async def settle(self) -> None:
        self.read()
        for replica in self.world.replicas:
            await replica.at_rest()
        await asyncio.sleep(0)
        for line in self.world.open_lines:
            if not self.world.is_cut_off(line):
                await _until(lambda line=line: line.over or line.named <= _ended(line))  # type: ignore[misc]

    async def end_all(self) -> None:
        """Every session is opened once more: what was accepted has ended then."""
        for replica in self.world.replicas:
            if replica.paused:
                await replica.wake()
        for session in list(self.model.values()):
            for line in self.world.open_lines:
                self.lost(line)
                line.conversation.lost()
            await self.settle()
            last = await self.world.dial(self.world.here, session.session_id, Open(f"sessions/{session.session_id}"))
            assert isinstance(last, Line)
            last.session = session
            await self.settle()
        for session in self.model.values():
            kept = self.world.kept(session.session_id)
            assert kept is not None
            session.check_kept(*kept, self.world.here.handle.engines.loaded[0].text)
            assert not session.unfinished, "a turn that was accepted never ended"

    # Acts

    async def create(self, replica: Replica, asked: NewSession) -> None:
        session = self.model.get(asked.session_id)
        full, others = self.is_full(replica), self.followers(asked.session_id, replica)
        line = await self.world.dial(replica, asked.session_id, Open(asked))
        if not isinstance(line, Line):
            refused = {Reason.CAPACITY_EXHAUSTED} if full else set[Reason]()
            if session is not None and session.asked != asked:
                refused = {Reason.SESSION_EXISTS}
            assert line in refused
            return
        if session is None:
            session = self.model[asked.session_id] = ModelSession(
                asked.session_id,
                asked,
                asked.options.on_disconnect is OnDisconnect.CONTINUE,
                asked.options.delete_after_idle_s is not None,
            )
        assert session.asked == asked
        await self._opened(line, session, others)

    async def open(self, replica: Replica, session: ModelSession, after: str | int | None) -> None:
        sequence = max(session.heard, default=0) if after == "heard" else after
        assert sequence is None or isinstance(sequence, int)
        full, others = self.is_full(replica), self.followers(session.session_id, replica)
        line = await self.world.dial(replica, session.session_id, Open(f"sessions/{session.session_id}", sequence))
        if isinstance(line, Line):
            await self._opened(line, session, others)
        elif line is Reason.EVENTS_EXPIRED:
            kept = self.world.kept(session.session_id)
            assert kept is not None
            assert sequence is not None
            live = self.world.live(replica, session.session_id)
            assert live is not None
            assert sequence < live.last_sequence, (sequence, live.session, kept[0])
        else:
            assert line is Reason.CAPACITY_EXHAUSTED
            assert full

    async def _opened(self, line: Line, session: ModelSession, others: list[Line]) -> None:
        """Whoever had it before has not any more."""
        line.session = session
        assert not self.world.is_stale(line.replica, session.session_id)
        for other in others:
            other.reading.set()
            await _until(lambda other=other: other.ended)  # type: ignore[misc]
            assert other.error in {Reason.SESSION_TAKEN_OVER, None} if other.half_closed else Reason.SESSION_TAKEN_OVER

    async def close(self, line: Line, delete: bool) -> None:
        self.read()
        line.half_closed = True
        assert await line.ask(Close(delete)) is None
        await _until(lambda: line.ended)
        assert line.error in {None, Reason.SESSION_TAKEN_OVER}

    async def turn(self, line: Line, request: TurnRequest) -> None:
        session = self.model.get(line.session_id)
        stale = self.world.is_cut_off(line)
        known = session.find(request.turn_id) if session is not None else None
        before = len(rejections(line.heard))
        busy = len(session.unfinished) if session is not None else 0
        assert await line.ask(request) is None
        if session is not None and known is None and self.is_kept(line.session_id, request.turn_id):
            assert not stale
            session.turns.append(ModelTurn(request, self.epoch(session)))
            line.named.add(request.turn_id)
            return
        if known is not None and known.request == request and not stale:
            line.named.add(request.turn_id)
            return
        line.reading.set()
        await _until(lambda: len(rejections(line.heard)) > before or line.over or stale)
        expected = {Reason.TURN_QUEUE_FULL} if known is None and busy >= MOST_WAITING else set[Reason]()
        if known is not None and known.request != request:
            expected = {Reason.TURN_ID_REUSED}
        told = {rejected.error.reason for rejected in rejections(line.heard)[before:]}
        assert told <= (expected | {Reason.SESSION_TAKEN_OVER} if stale else expected), told
        assert told or stale

    async def turn_and_lose(self, line: Line, request: TurnRequest, steps: int) -> None:
        session = self.model.get(line.session_id)
        stale = self.world.is_cut_off(line)
        asking = asyncio.create_task(line.ask(request))
        for _ in range(steps):
            await asyncio.sleep(0)
        self.lost(line)
        line.conversation.lost()
        await asking
        await _until(lambda: line.ended)
        if session is not None and self.is_kept(line.session_id, request.turn_id):
            assert not stale
            cancels = set() if session.continues else {False}
            session.turns.append(ModelTurn(request, self.epoch(session), cancels))

    async def run_turn(self, replica: Replica, session: ModelSession, request: TurnRequest) -> None:
        full, others = self.is_full(replica), self.followers(session.session_id, replica)
        busy = len(session.unfinished)
        line = Line(replica, session.session_id, ConversationStream(replica.handle.sessions, PRINCIPAL, one_turn=True))
        if (reason := await line.ask(Open(f"sessions/{session.session_id}"))) is not None:
            assert reason is Reason.CAPACITY_EXHAUSTED
            assert full
            return
        self.world.add(line)
        await self._opened(line, session, others)
        await line.ask(request)
        line.conversation.no_more()
        line.half_closed = True
        self.read()
        if self.is_kept(session.session_id, request.turn_id):
            session.turns.append(ModelTurn(request, self.epoch(session)))
        await _until(lambda: line.ended)
        if session.find(request.turn_id) is None:
            assert line.error is Reason.TURN_QUEUE_FULL
            assert busy >= MOST_WAITING
        else:
            assert line.error is None
            assert _ended(line) == {request.turn_id}

    async def fork(self, replica: Replica, source: ModelSession, turn_id: str, new_id: str) -> None:
        ended = [turn.turn_id for turn in source.turns if turn.result is not None]
        act = replica.branches.fork(PRINCIPAL, source.session_id, turn_id, new_id, "")
        reason = await _reason(act)
        existing, wanted = self.model.get(new_id), (source.session_id, turn_id)
        if existing is not None:
            assert reason is (None if existing.forked_from == wanted else Reason.SESSION_EXISTS)
        elif turn_id and source.find(turn_id) is None:
            assert reason is Reason.TURN_NOT_FOUND
        elif reason is Reason.TURN_NOT_FINISHED:
            assert turn_id not in ended
        else:
            assert reason is None
            kept = self.world.kept(new_id)
            assert kept is not None
            self._forked(source, new_id, len(kept[1]), wanted)
            copies = [turn.turn_id for turn, _ in kept[1]]
            assert copies[-1:] == [turn_id] if turn_id else len(copies) >= len(ended)

    def _forked(self, source: ModelSession, new_id: str, size: int, wanted: tuple[str, str]) -> None:
        copies = [replace(turn, cancels=set(turn.cancels), result=None) for turn in source.turns[:size]]
        fork = ModelSession(new_id, None, source.continues, source.expires, copies, forked_from=wanted)
        self.model[new_id] = fork

    async def rewind(self, replica: Replica, session: ModelSession, turn_id: str, *, drop: bool) -> None:
        others = self.followers(session.session_id, replica)
        reason = await _reason(replica.branches.rewind(PRINCIPAL, session.session_id, turn_id, drop_turn=drop))
        turn = session.find(turn_id)
        assert reason is (Reason.TURN_NOT_FOUND if turn is None else None)
        if turn is not None:
            session.cut(session.turns.index(turn) + (not drop))
        await self._all_ended(others, {Reason.SESSION_TAKEN_OVER})

    async def delete(self, replica: Replica, session_id: str) -> None:
        others = self.followers(session_id, replica)
        reason = await _reason(replica.handle.sessions.delete(PRINCIPAL, session_id))
        assert reason is (Reason.SESSION_NOT_FOUND if self.model.pop(session_id, None) is None else None)
        await self._all_ended(others, {Reason.SESSION_TAKEN_OVER, Reason.SESSION_DELETED})

    async def expire(self, session: ModelSession) -> None:
        await self.settle()
        followed = bool(self.followers(session.session_id))
        runs = await self.world.pass_time(session.session_id)
        assert not (runs and followed)
        assert not runs or session.expires
        for replica in self.world.replicas:
            await replica.handle.sessions.reap()
        if runs:
            del self.model[session.session_id]

    async def drain(self, replica: Replica) -> None:
        lines = [line for line in self.world.open_lines if line.replica is replica]
        await replica.restart()
        for line in lines:
            line.reading.set()
        await _until(lambda: all(line.ended for line in lines))
        assert {line.error for line in lines} <= {Reason.DRAINING, Reason.SESSION_TAKEN_OVER, None}

    async def pause(self, replica: Replica) -> None:
        await (replica.wake() if replica.paused else replica.pause())

    async def crash(self, replica: Replica) -> None:
        for line in self.world.open_lines:
            if line.replica is replica:
                self.lost(line)  # its server may have seen the stream end, and written so, just before
                await line.hang_up()
        await replica.crash()
        await replica.start()

    async def _all_ended(self, lines: list[Line], reasons: set[Reason]) -> None:
        for line in lines:
            line.reading.set()
            await _until(lambda line=line: line.ended)  # type: ignore[misc]
            assert line.error in reasons


async def _until(true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110 - what is waited for is in another task
        await asyncio.sleep(0.001)


async def _reason(act: Awaitable[object]) -> Reason | None:
    """Why something was refused."""
    try:
        await act
    except SinkServeError as error:
        return error.reason
    return None


def _ended(line: Line) -> set[str]:
    return {event.turn_id for event in line.heard if isinstance(event.body, TurnFinished)}
