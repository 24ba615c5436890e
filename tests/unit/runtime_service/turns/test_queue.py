"""Turns wait, run one after another, and are written before anybody is told how they ended."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from common.errors import Aborted, Reason, SinkServeError, Unavailable
from runtime_service.domain.durability import Durability
from runtime_service.domain.turn import FinishReason
from runtime_service.turns import session_state
from runtime_service.turns.events import Event, TurnFinished
from runtime_service.turns.input import prepare_turn, restore_turns
from runtime_service.turns.pending import PendingTurn
from runtime_service.turns.queue import TurnQueue
from runtime_service.turns.run import MOST_CRASHES
from runtime_service.turns.session_state import SessionState
from tests.fakes.session.parts import SessionParts, request
from tests.samples.session_examples import slot_state, turn


def away(times: int) -> list[SinkServeError]:
    return [Unavailable(Reason.DATABASE_UNAVAILABLE, "away") for _ in range(times)]


class Bench:
    """A queue, what it published and what broke it."""

    def __init__(self, **options: Any) -> None:
        self.parts = SessionParts(snapshot_turns=2)
        self.state = SessionState.of(self.parts.session(**options), self.parts.engine, self.parts.shared)
        self.events: list[Event] = []
        self.broken: list[SinkServeError] = []
        self.queue = TurnQueue(self.state, self._publish, self.broken.append)
        self.scheduler = self.parts.scheduler

    def _publish(self, event: Event) -> None:
        if isinstance(event.body, TurnFinished):
            assert f"finish {event.turn_id}" in self.parts.repository.writes
        self.events.append(event)

    def add(self, turn_id: str) -> PendingTurn:
        pending = prepare_turn(request(turn_id), 1, self.state.session, self.state.engine, self.parts.shared.settings)
        self.queue.add(pending)
        return pending

    async def rest(self) -> None:
        if self.queue.task is not None:
            await self.queue.task
        await self.parts.shared.background.wait()

    def finished(self) -> list[tuple[str, FinishReason]]:
        ends = [(event.turn_id, event.body) for event in self.events]
        return [(turn_id, body.result.reason) for turn_id, body in ends if isinstance(body, TurnFinished)]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_state, "RETRY_S", 0)


async def test_turns_run_one_after_another() -> None:
    bench = Bench()
    bench.add("1")
    bench.add("2")
    await bench.scheduler.come(1)
    assert (len(bench.queue.waiting), bench.state.engine.turns) == (1, 2)
    bench.scheduler.admit()
    bench.scheduler.write("x", 7)
    bench.scheduler.end(7)
    await bench.scheduler.come(2)
    assert bench.scheduler.turn_ids == ["1", "2"]
    bench.scheduler.end()
    await bench.rest()
    assert [type(event.body).__name__ for event in bench.events] == [
        "TurnStarted",
        "Delta",
        "TurnFinished",
        "TurnFinished",
    ]
    assert [event.sequence for event in bench.events] == sorted({event.sequence for event in bench.events})
    assert (bench.state.session.turns, bench.state.engine.turns, bench.queue.pending) == (2, 0, [])


async def test_a_result_has_what_the_turn_added() -> None:
    bench = Bench()
    bench.add("1")
    await bench.scheduler.come(1)
    bench.scheduler.admit()
    bench.scheduler.end(7, 8)
    await bench.rest()
    (result,) = [event.body.result for event in bench.events if isinstance(event.body, TurnFinished)]
    assert (result.token_ids, result.prompt_tokens, result.usage.position) == ((), 2, 6)
    kept = bench.parts.repository.turns["1"].result
    assert kept is not None
    assert kept.token_ids == (7, 8)
    assert (result.started_sequence, result.finished_sequence) == tuple(event.sequence for event in bench.events)
    assert bench.state.session.position == 6


async def test_a_waiting_turn_that_is_cancelled_never_runs() -> None:
    bench = Bench()
    bench.add("1")
    bench.add("2")
    await bench.scheduler.come(1)
    bench.queue.cancel_turn("2", discard=True)
    bench.queue.cancel_turn("none", discard=True)
    bench.scheduler.end()
    await bench.rest()
    assert bench.finished() == [("1", FinishReason.STOP), ("2", FinishReason.CANCELLED)]
    assert bench.scheduler.turn_ids == ["1"]


async def test_a_running_turn_is_cancelled_once() -> None:
    bench = Bench()
    bench.add("1")
    await bench.scheduler.come(1)
    for discard in (True, False):
        bench.queue.cancel_turn("1", discard=discard)
    assert bench.scheduler.calls == [("cancel", "1", True)]


async def test_a_database_that_is_away_for_a_while_costs_nothing() -> None:
    bench = Bench()
    bench.parts.repository.failures = [*away(session_state.TRIES - 1)]
    bench.add("1")
    await bench.scheduler.come(1)
    bench.scheduler.end()
    await bench.rest()
    assert (bench.finished(), bench.broken) == ([("1", FinishReason.STOP)], [])


@pytest.mark.parametrize(
    "failures", [away(session_state.TRIES), [Aborted(Reason.SESSION_TAKEN_OVER, "another server has it")]]
)
async def test_a_turn_whose_end_cannot_be_written_is_not_told(failures: list[SinkServeError]) -> None:
    bench = Bench()
    bench.parts.repository.failures = list(failures)
    bench.add("1")
    bench.add("2")
    await bench.scheduler.come(1)
    bench.scheduler.end()
    await bench.rest()
    assert (bench.events, bench.broken) == ([], [failures[-1]])
    assert (bench.queue.pending, bench.state.engine.turns) == ([], 0)


async def test_what_runs_when_it_stops_runs_again_and_counts_as_no_crash() -> None:
    bench = Bench()
    bench.add("1")
    bench.add("2")
    await bench.scheduler.come(1)
    assert await bench.queue.stop(keep=True) is None
    assert bench.parts.repository.writes == ["attempt 1, 1 stops"]
    assert (bench.events, bench.queue.pending, bench.state.engine.turns) == ([], [], 0)


@pytest.mark.parametrize(("position", "keep", "kept"), [(2, True, True), (3, True, False), (2, False, False)])
async def test_a_cache_is_kept_up_to_what_was_written(position: int, *, keep: bool, kept: bool) -> None:
    bench = Bench()
    bench.scheduler.cache = slot_state(position)
    assert (await bench.queue.stop(keep=keep) is not None) is kept


@pytest.mark.parametrize(("stops", "runs"), [(0, False), (1, True)])
async def test_a_turn_that_crashed_its_servers_is_not_run_again(stops: int, *, runs: bool) -> None:
    bench = Bench()
    left = replace(turn(1, token_ids=(5,)), attempt=MOST_CRASHES, stops=stops)
    (pending,) = restore_turns([left], bench.state.session, bench.state.engine)
    bench.queue.add(pending)
    if runs:
        await bench.scheduler.come(1)
        bench.scheduler.end()
    await bench.rest()
    assert bench.finished() == [("t1", FinishReason.STOP if runs else FinishReason.ERROR)]


@pytest.mark.parametrize("cached", [False, True])
async def test_the_scheduler_gets_the_history_it_needs(*, cached: bool) -> None:
    bench = Bench()
    bench.parts.caches.found = state = slot_state(2) if cached else None
    bench.add("1")
    await bench.scheduler.come(1)
    bench.scheduler.ask_history(50)
    await bench.parts.shared.background.wait()
    assert bench.scheduler.calls == [("refill", [1], 2, [3] * (8 if cached else 50), state)]


async def test_a_history_that_cannot_be_read_fails_the_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    monkeypatch.delattr(type(bench.parts.repository), "history")
    bench.add("1")
    await bench.scheduler.come(1)
    bench.scheduler.ask_history(50)
    await bench.parts.shared.background.wait()
    assert bench.scheduler.calls == [("fail", Reason.INTERNAL)]


@pytest.mark.parametrize(("durability", "stored"), [(Durability.TOKENS_AND_KV, 1), (Durability.TOKENS, 0)])
async def test_a_snapshot_is_stored_every_so_many_turns(durability: Durability, stored: int) -> None:
    bench = Bench(durability=durability)
    bench.scheduler.cache = slot_state(2)
    for number in range(1, 4):
        bench.add(str(number))
        await bench.scheduler.come(number)
        bench.scheduler.end()
        await bench.rest()
    assert len(bench.parts.caches.stored) == stored
    assert bench.state.cache_is_kept is bool(stored)
