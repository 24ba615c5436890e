"""A turn id that was used before: the same turn is not run again, its events are repeated."""

from __future__ import annotations

from dataclasses import dataclass

from common.errors import AlreadyExists, Reason
from runtime_service.decoding.delta import Delta
from runtime_service.decoding.parts.pieces import pieces_of
from runtime_service.domain.turn import Result, Turn, TurnRequest
from runtime_service.turns.events import Event, EventLog, TurnFinished, TurnStarted
from runtime_service.turns.pending import PendingTurn


@dataclass(frozen=True)
class KnownTurn:
    """A turn that was accepted before, and its events so far."""

    events: tuple[Event, ...]
    ended: bool


def check_same_turn(turn: Turn, request: TurnRequest) -> None:
    """Raise AlreadyExists (TURN_ID_REUSED) unless `request` is the one that `turn` was accepted for."""
    if turn.request.digest() != request.digest():
        raise AlreadyExists(
            Reason.TURN_ID_REUSED,
            f"turn_id {request.turn_id!r} was used in this session for another turn; choose a new one",
            field="turn.turn_id",
            turn_id=request.turn_id,
        )


def running_turn(pending: PendingTurn, log: EventLog) -> KnownTurn:
    """A turn that runs or waits, with its events as they were if all are in the log, else its reply in one piece."""
    logged = log.of_turn(pending.turn_id)
    if pending.started is None or (logged and logged[0].sequence == pending.started_sequence):
        return KnownTurn(tuple(logged), ended=False)
    said, thought = pending.text.getvalue(), pending.reasoning.getvalue()
    reply = Delta(said, tuple(pending.token_ids), reasoning=thought, calls=pending.calls)
    return KnownTurn((pending.started, *_in_one_piece(reply, log.last, pending.turn_id)), ended=False)


def ended_turn(turn: Turn, log: EventLog) -> KnownTurn:
    """A turn that ended, with its events as they were if all are in the log, else made from its result."""
    assert turn.result is not None, turn
    logged = log.of_turn(turn.turn_id)
    first = turn.result.started_sequence or turn.result.finished_sequence
    whole = logged and logged[0].sequence == first and logged[-1].sequence == turn.result.finished_sequence
    return KnownTurn(tuple(logged) if whole else events_from_result(turn, turn.result), ended=True)


def events_from_result(turn: Turn, result: Result) -> tuple[Event, ...]:
    """Events of a turn that ended, from what is stored of it: its reply in one piece, without log-probabilities."""
    finished = Event(result.finished_sequence, TurnFinished.of(result), turn.turn_id)
    if not result.started_sequence:
        return (finished,)
    started = TurnStarted(result.prompt_tokens, turn.attempt, turn.options, result.recalled)
    first = Event(result.started_sequence, started, turn.turn_id)
    reply = Delta(result.text, result.token_ids, reasoning=result.reasoning, calls=pieces_of(result.tool_calls))
    return (first, *_in_one_piece(reply, result.finished_sequence - 1, turn.turn_id), finished)


def _in_one_piece(reply: Delta, sequence: int, turn_id: str) -> tuple[Event, ...]:
    return (Event(sequence, reply, turn_id),) if reply.token_ids else ()
