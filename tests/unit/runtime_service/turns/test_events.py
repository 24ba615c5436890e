"""Events of a session: numbered, kept for a while, told again as they were."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import OutOfRange, Reason
from runtime_service.decoding.delta import Delta
from runtime_service.turns.events import EventLog


def piece(token: int) -> Delta:
    return Delta(chr(97 + token % 26), (token,))


def test_sequences_of_a_later_epoch_are_above_all_earlier_ones() -> None:
    first = EventLog(0, 0, 100, 1 << 20)
    events = [first.append("t", piece(index)) for index in range(50)]
    assert [event.sequence for event in events] == list(range(1, 51))
    second = EventLog(1, 50, 100, 1 << 20)
    assert second.append("t", piece(0)).sequence > events[-1].sequence


@given(st.integers(1, 30), st.integers(0, 40), st.integers(0, 45))
def test_what_is_kept_is_told_again_exactly(most: int, count: int, after: int) -> None:
    log = EventLog(0, 0, most, 1 << 20)
    events = [log.append("t", piece(index)) for index in range(count)]
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
        log.append("t", Delta("x" * 800, (1,)))
    assert len(log.of_turn("t")) == 2


def test_who_heard_the_last_end_has_missed_nothing_after_a_restart() -> None:
    log = EventLog(3, 77, 100, 1 << 20)
    assert log.since(77) == []
    with pytest.raises(OutOfRange):
        log.since(76)


def test_events_of_a_turn_are_found_among_those_of_others() -> None:
    log = EventLog(0, 0, 100, 1 << 20)
    events = [log.append(turn_id, piece(index)) for index, turn_id in enumerate("abab")]
    assert log.of_turn("b") == [events[1], events[3]]
    assert log.of_turn("") == []
