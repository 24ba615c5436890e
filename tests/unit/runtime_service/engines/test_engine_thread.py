"""What a scheduler emitted reaches its listeners in order, and in fewer pieces where they fall behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from runtime_service.decoding.delta import MOST_TOKENS, Delta
from runtime_service.engines.engine_thread import EngineThread, by_listener
from runtime_service.scheduling.scheduler_events import Emit, Listener, NeedsHistory, SchedulerEvent, TurnAdmitted
from runtime_service.scheduling.turn_scheduler import TurnScheduler

EVENTS = st.one_of(
    st.builds(lambda token: Delta(chr(97 + token), (token,)), st.integers(0, 25)),
    st.just(TurnAdmitted()),
    st.builds(NeedsHistory, st.integers(0, 9)),
)


def _listeners(count: int) -> list[Listener]:
    return [(lambda _event, number=number: number) for number in range(count)]  # type: ignore[misc]


def _spelled(events: list[SchedulerEvent]) -> list[SchedulerEvent | int]:
    """Tokens one by one, and what is between them."""
    return [item for event in events for item in (event.token_ids if isinstance(event, Delta) else (event,))]


@given(st.lists(st.tuples(st.integers(0, 2), EVENTS), max_size=200))
def test_every_listener_hears_all_of_its_own_in_order(batch: list[tuple[int, SchedulerEvent]]) -> None:
    listeners = _listeners(3)
    told = list(by_listener([(listeners[number], event) for number, event in batch]))
    for number, listener in enumerate(listeners):
        expected = [event for whose, event in batch if whose == number]
        heard = [event for whose, event in told if whose is listener]
        assert _spelled(heard) == _spelled(expected)
        text = "".join(event.text for event in heard if isinstance(event, Delta))
        assert text == "".join(event.text for event in expected if isinstance(event, Delta))
        pairs = pairwise(heard)
        assert not [
            one for one, two in pairs if isinstance(one, Delta) and isinstance(two, Delta) and _size(one) < MOST_TOKENS
        ], "no two pieces that could be one"
        assert all(_size(event) <= MOST_TOKENS for event in heard)


def _size(event: SchedulerEvent) -> int:
    return len(event.token_ids) if isinstance(event, Delta) else 0


def test_what_waits_is_bounded_for_each_listener() -> None:
    first, second = _listeners(2)
    batch = [(listener, Delta("x", (1,))) for _ in range(MOST_TOKENS + 1) for listener in (first, second)]
    sizes = [(listener is first, _size(event)) for listener, event in by_listener(batch)]
    assert sizes == [(True, MOST_TOKENS), (True, 1), (False, MOST_TOKENS), (False, 1)]


class Chatter:
    """A scheduler that says a word a step, for as long as it is asked to."""

    due_s: float | None = None

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self.left = 0
        self.said_all = False
        self.listener: Listener | None = None

    def step(self) -> bool:
        if not self.left:
            return False
        self.left -= 1
        assert self.listener is not None
        self._emit(self.listener, Delta("x", (self.left,)))
        self.said_all = self.left == 0
        return True


async def test_a_loop_that_is_busy_hears_everything_when_it_comes_to_it() -> None:
    heard: list[SchedulerEvent] = []
    made: list[Chatter] = []

    def make(emit: Emit, _wake: Callable[[], None]) -> TurnScheduler:
        made.append(Chatter(emit))
        return made[0]  # type: ignore[return-value] # only steps are asked of it

    thread = EngineThread(make, lambda: None, "chatter")
    made[0].listener = heard.append

    def begin(_scheduler: TurnScheduler) -> None:
        made[0].left = 1000

    thread.post(begin)
    while not made[0].said_all:  # the loop does nothing else meanwhile
        pass
    assert heard == []
    await thread.post_and_wait(lambda _: None)
    await asyncio.sleep(0)
    tokens = [token for event in heard if isinstance(event, Delta) for token in event.token_ids]
    assert tokens == list(range(999, -1, -1))
    assert len(heard) < 1000
    await thread.stop_engine()


class Patient(Chatter):
    """It does nothing until it is asked a second time."""

    def __init__(self, emit: Emit) -> None:
        super().__init__(emit)
        self.due_s, self.steps, self.asked_again = 0.001, 0, threading.Event()

    def step(self) -> bool:
        self.steps += 1
        if self.steps > 1:
            self.due_s = None
            self.asked_again.set()
        return False


async def test_a_scheduler_is_asked_again_when_it_wants_to_be_though_nobody_else_does() -> None:
    made: list[Patient] = []

    def make(emit: Emit, _wake: Callable[[], None]) -> TurnScheduler:
        made.append(Patient(emit))
        return made[0]  # type: ignore[return-value] # only steps are asked of it

    thread = EngineThread(make, lambda: None, "patient")
    assert await asyncio.to_thread(made[0].asked_again.wait, 60)
    await thread.stop_engine()
