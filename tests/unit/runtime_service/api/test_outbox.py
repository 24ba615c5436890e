"""What waits on a stream: sent in order, in fewer pieces where nobody reads, up to a bound, and then how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import Aborted, Reason
from runtime_service.api.outbox import MOST_BYTES, Outbox, merged
from runtime_service.decoding.delta import MOST_TOKENS, Delta, TokenLogprobs
from runtime_service.domain.turn import FinishReason, Result, Timing, Usage
from runtime_service.turns.events import Event, GoAway, Heartbeat, TurnFinished

LONG_S = 60.0
FINISHED = TurnFinished(Result(FinishReason.STOP, Usage(), Timing()))


def piece(number: int, turn_id: str = "t") -> Event:
    delta = Delta(chr(97 + number % 26), (number,), (TokenLogprobs(number, -1.0, b"x", ()),))
    return Event(number, delta, turn_id)


def deltas(events: list[Event], turn_id: str) -> list[Delta]:
    return [event.body for event in events if event.turn_id == turn_id and isinstance(event.body, Delta)]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3)), max_size=200))
def test_joining_pieces_loses_nothing_and_keeps_the_order(kinds: list[tuple[str, int]]) -> None:
    events = [
        Event(number, FINISHED, turn) if kind == 0 else piece(number, turn)
        for number, (turn, kind) in enumerate(kinds, 1)
    ]
    told = merged(events)
    for turn in "ab":
        for name in ("text", "token_ids", "logprobs"):
            before = [part for delta in deltas(events, turn) for part in getattr(delta, name)]
            assert [part for delta in deltas(told, turn) for part in getattr(delta, name)] == before
    assert [event.sequence for event in told] == sorted(event.sequence for event in told)
    assert {event for event in events if isinstance(event.body, TurnFinished)} <= set(told)
    assert not events or told[-1].sequence == events[-1].sequence


@given(st.lists(st.integers(1, 100), max_size=60))
def test_no_message_grows_without_bound_however_long_its_pieces_are(lengths: list[int]) -> None:
    events = [Event(number, Delta("x", (0,) * length), "t") for number, length in enumerate(lengths, 1)]
    sizes = [len(delta.token_ids) for delta in deltas(merged(events), "t")]
    assert sum(sizes) == sum(lengths)
    assert all(size <= max(MOST_TOKENS, *lengths) for size in sizes)
    assert all(one + two > MOST_TOKENS for one, two in pairwise(sizes)), "what could be one is one"


def test_pieces_of_two_turns_are_never_one() -> None:
    told = merged([piece(1, "a"), piece(2, "a"), piece(3, "b"), piece(4, "b")])
    assert [(event.turn_id, event.sequence) for event in told] == [("a", 2), ("b", 4)]


async def test_what_waits_comes_joined_and_then_how_it_ends() -> None:
    outbox = Outbox(10, lambda _: None)
    outbox.put(piece(1), piece(2))
    outbox.close(Aborted(Reason.SESSION_TAKEN_OVER, "gone"))
    outbox.put(piece(3))
    events = await outbox.take(LONG_S)
    assert events is not None
    assert [event.sequence for event in events] == [2]
    with pytest.raises(Aborted):
        await outbox.take(LONG_S)


async def test_one_that_is_closed_well_ends_with_none() -> None:
    outbox = Outbox(10, lambda _: None)
    assert not outbox.closed
    outbox.close()
    outbox.close(Aborted(Reason.SESSION_TAKEN_OVER, "too late"))
    assert outbox.closed
    assert await outbox.take(LONG_S) is None


async def test_nothing_to_send_is_an_empty_list_and_putting_nothing_wakes_nobody() -> None:
    outbox = Outbox(10, lambda _: None)
    outbox.put()
    assert await outbox.take(0.01) == []
    taking = asyncio.create_task(outbox.take(LONG_S))
    await asyncio.sleep(0)
    outbox.put(Event(0, Heartbeat()))
    assert await taking == [Event(0, Heartbeat())]
    assert await outbox.take(0.01) == [], "what was taken is gone"


async def test_a_close_wakes_who_waits_for_something_to_send() -> None:
    outbox = Outbox(10, lambda _: None)
    taking = asyncio.create_task(outbox.take(LONG_S))
    await asyncio.sleep(0)
    outbox.close()
    assert await taking is None


async def test_it_says_once_when_it_is_full_and_once_when_it_is_not() -> None:
    told: list[bool] = []
    outbox = Outbox(2, told.append)
    outbox.put(Event(0, GoAway(1.0)))
    assert told == []
    for number in range(3):
        outbox.put(Event(number, FINISHED, "t"))
    assert outbox.waiting == 4
    assert told == [True]
    await outbox.take(LONG_S)
    assert (outbox.waiting, told) == (2, [True]), "no more is handed out than may wait"
    await outbox.take(LONG_S)
    assert (outbox.waiting, told) == (0, [True, False])


async def test_few_events_of_many_bytes_fill_it() -> None:
    outbox = Outbox(100, lambda _: None)
    for number in range(2):
        assert not outbox.is_full
        outbox.put(Event(number, Delta("x" * (MOST_BYTES // 2)), "t"))
    assert outbox.is_full


async def test_a_client_that_does_not_read_has_to_before_there_is_room() -> None:
    outbox = Outbox(1, lambda _: None)
    await outbox.room()
    outbox.put(piece(1))
    waiting = asyncio.create_task(outbox.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    await outbox.take(LONG_S)
    await waiting


async def test_a_close_ends_the_wait_for_room_and_full_is_told_no_more() -> None:
    told: list[bool] = []
    outbox = Outbox(1, told.append)
    outbox.put(piece(1))
    waiting = asyncio.create_task(outbox.room())
    await asyncio.sleep(0)
    outbox.close()
    await waiting
    await outbox.take(LONG_S)
    assert told == [True]


@pytest.mark.parametrize("comes", [True, False])
async def test_what_comes_as_the_time_is_up_is_no_silence(comes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox, event = Outbox(8, lambda _: None), Event(1, Heartbeat())

    @asynccontextmanager
    async def up(_: float) -> AsyncIterator[None]:
        if comes:
            outbox.put(event)
        raise TimeoutError
        yield

    monkeypatch.setattr(asyncio, "timeout", up)
    assert await outbox.take(LONG_S) == ([event] if comes else [])
