"""What a scheduler emitted reaches its listeners in order, and in fewer pieces where they fall behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from runtime_service.decoding.reply import MOST_JOINED, Delta, join
from runtime_service.engines.engine_thread import EngineThread, joined
from runtime_service.scheduling.turn_scheduler import (
    Began,
    Emit,
    Listener,
    NeedsHistory,
    RunEvent,
    TurnScheduler,
    Wrote,
)

EVENTS = st.one_of(
    st.builds(lambda token: Wrote(Delta(chr(97 + token), (token,))), st.integers(0, 25)),
    st.just(Began()),
    st.builds(NeedsHistory, st.integers(0, 9)),
)


def _listeners(count: int) -> list[Listener]:
    return [(lambda _event, number=number: number) for number in range(count)]  # type: ignore[misc]


def _spelled(events: list[RunEvent]) -> list[RunEvent | int]:
    """Tokens one by one, and what is between them."""
    return [item for event in events for item in (event.delta.token_ids if isinstance(event, Wrote) else (event,))]


@given(st.lists(st.tuples(st.integers(0, 2), EVENTS), max_size=200))
def test_every_listener_hears_all_of_its_own_in_order(batch: list[tuple[int, RunEvent]]) -> None:
    listeners = _listeners(3)
    told = list(joined([(listeners[number], event) for number, event in batch]))
    for number, listener in enumerate(listeners):
        expected = [event for whose, event in batch if whose == number]
        heard = [event for whose, event in told if whose is listener]
        assert _spelled(heard) == _spelled(expected)
        text = "".join(event.delta.text for event in heard if isinstance(event, Wrote))
        assert text == "".join(event.delta.text for event in expected if isinstance(event, Wrote))
        pairs = pairwise(heard)
        assert not [
            one for one, two in pairs if isinstance(one, Wrote) and isinstance(two, Wrote) and _size(one) < MOST_JOINED
        ], "no two pieces that could be one"
        assert all(_size(event) <= MOST_JOINED for event in heard)


def _size(event: RunEvent) -> int:
    return len(event.delta.token_ids) if isinstance(event, Wrote) else 0


def test_one_piece_is_itself() -> None:
    piece = Delta("a", (1,))
    assert join([piece]) is piece
    assert join([piece, Delta("b", (2, 3))]) == Delta("ab", (1, 2, 3))


class Chatter:
    """A scheduler that says a word a step, for as long as it is asked to."""

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
        self._emit(self.listener, Wrote(Delta("x", (self.left,))))
        self.said_all = self.left == 0
        return True


async def test_a_loop_that_is_busy_hears_everything_when_it_comes_to_it() -> None:
    heard: list[RunEvent] = []
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
    await thread.done(lambda _: None)
    await asyncio.sleep(0)
    tokens = [token for event in heard if isinstance(event, Wrote) for token in event.delta.token_ids]
    assert tokens == list(range(999, -1, -1))
    assert len(heard) < 1000
    await thread.stop()
