"""Events of a session: numbered, kept for a while, told again as they were; and what waits on a stream."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import Aborted, OutOfRange, Reason
from runtime_service.api.outbox import Outbox
from runtime_service.decoding.reply import MOST_JOINED, Delta, TokenLogprobs
from runtime_service.domain.turn import FinishReason, Result, Timing, Usage
from runtime_service.sessions.events import Event, EventLog, Finished, Heartbeat, Said, merge


def said(turn_id: str, token: int) -> Said:
    return Said(turn_id, Delta(chr(97 + token % 26), (token,), (TokenLogprobs(token, -1.0, b"x", ()),)))


def finished(turn_id: str) -> Finished:
    return Finished(turn_id, Result(FinishReason.STOP, Usage(), Timing()))


def test_sequences_of_a_later_epoch_are_above_all_earlier_ones() -> None:
    first = EventLog(0, 0, 100, 1 << 20)
    events = [first.append(said("t", index)) for index in range(50)]
    assert [event.sequence for event in events] == list(range(1, 51))
    second = EventLog(1, 50, 100, 1 << 20)
    assert second.append(said("t", 0)).sequence > events[-1].sequence


@given(st.integers(1, 30), st.integers(0, 40), st.integers(0, 45))
def test_what_is_kept_is_told_again_exactly(most: int, count: int, after: int) -> None:
    log = EventLog(0, 0, most, 1 << 20)
    events = [log.append(said("t", index)) for index in range(count)]
    gone = max(0, count - most)
    if after < gone:
        with pytest.raises(OutOfRange) as caught:
            log.since(after)
        assert caught.value.reason is Reason.EVENTS_EXPIRED
    else:
        assert log.since(after) == events[after:]


def test_bytes_bound_what_is_kept_too() -> None:
    log = EventLog(0, 0, 1000, 3000)
    for _ in range(20):
        log.append(Said("t", Delta("x" * 800, (1,))))
    assert len(log.of_turn("t")) == 2


def test_who_heard_the_last_end_has_missed_nothing_after_a_restart() -> None:
    log = EventLog(3, 77, 100, 1 << 20)
    assert log.since(77) == []
    with pytest.raises(OutOfRange):
        log.since(76)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3)), max_size=200))
def test_joining_pieces_loses_nothing_and_keeps_the_order(kinds: list[tuple[str, int]]) -> None:
    events = [
        Event(number, finished(turn) if kind == 0 else said(turn, number))
        for number, (turn, kind) in enumerate(kinds, 1)
    ]
    merged = merge(events)
    for turn in "ab":
        pieces = [event.body.delta for event in events if isinstance(event.body, Said) and event.body.turn_id == turn]
        joined = [event.body.delta for event in merged if isinstance(event.body, Said) and event.body.turn_id == turn]
        for name in ("text", "token_ids", "logprobs"):
            before = [part for delta in pieces for part in getattr(delta, name)]
            assert [part for delta in joined for part in getattr(delta, name)] == before
    assert [event.sequence for event in merged] == sorted(event.sequence for event in merged)
    assert {event for event in events if isinstance(event.body, Finished)} <= set(merged)
    assert not events or merged[-1].sequence == events[-1].sequence


@given(st.lists(st.integers(1, 100), max_size=60))
def test_no_message_grows_without_bound_however_long_its_pieces_are(lengths: list[int]) -> None:
    events = [Event(number, Said("t", Delta("x", (0,) * length))) for number, length in enumerate(lengths, 1)]
    sizes = [len(event.body.delta.token_ids) for event in merge(events) if isinstance(event.body, Said)]
    assert sum(sizes) == sum(lengths)
    assert all(size <= max(MOST_JOINED, *lengths) for size in sizes)
    assert all(one + two > MOST_JOINED for one, two in pairwise(sizes)), "what could be one is one"


async def test_an_outbox_gives_what_waits_and_then_how_it_ends() -> None:
    outbox = Outbox(10, lambda _: None)
    outbox.put(Event(1, said("t", 1)), Event(2, said("t", 2)))
    outbox.close(Aborted(Reason.SESSION_TAKEN_OVER, "gone"))
    outbox.put(Event(3, said("t", 3)))
    events = await outbox.take(1.0)
    assert events is not None
    assert [event.sequence for event in events] == [2]
    with pytest.raises(Aborted):
        await outbox.take(1.0)


async def test_an_outbox_that_is_closed_well_ends_with_none() -> None:
    outbox = Outbox(10, lambda _: None)
    outbox.close()
    outbox.close(Aborted(Reason.SESSION_TAKEN_OVER, "too late"))
    assert await outbox.take(1.0) is None


async def test_nothing_to_send_is_an_empty_list_and_putting_nothing_wakes_nobody() -> None:
    outbox = Outbox(10, lambda _: None)
    outbox.put()
    assert await outbox.take(0.01) == []
    waiting = asyncio.create_task(outbox.take(10.0))
    await asyncio.sleep(0)
    outbox.put(Event(0, Heartbeat()))
    assert await waiting == [Event(0, Heartbeat())]


async def test_an_outbox_says_when_it_is_full_and_when_it_is_not() -> None:
    told: list[bool] = []
    outbox = Outbox(2, told.append)
    for number in range(4):
        outbox.put(Event(number, finished("t")))
    assert told == [True]
    await outbox.take(1.0)
    assert told == [True, False]
