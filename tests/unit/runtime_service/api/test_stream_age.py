"""A stream that is old is asked to leave between two turns, and ended when it has had the time to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from common.errors import Reason, Unavailable
from runtime_service.api.stream_age import StreamAge

AGE_S, GRACE_S = 100.0, 30.0


@dataclass
class Timer:
    delay_s: float
    act: Callable[[], None]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


@dataclass
class Loop:
    """Keeps what is to be done later; nothing happens by itself."""

    timers: list[Timer] = field(default_factory=list)

    def call_later(self, delay_s: float, act: Callable[[], None]) -> Timer:
        self.timers.append(Timer(delay_s, act))
        return self.timers[-1]


@dataclass
class Stream:
    resting: bool = False
    asked: list[float] = field(default_factory=list)
    ended: list[Unavailable] = field(default_factory=list)

    def go_away(self, grace_s: float) -> None:
        self.asked.append(grace_s)

    def expire(self, error: Unavailable) -> None:
        self.ended.append(error)


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    made = Loop()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: made)
    return made


def test_a_stream_grows_old_at_its_age_or_up_to_a_tenth_later(loop: Loop) -> None:
    for _ in range(50):
        StreamAge(Stream(), AGE_S, GRACE_S).start()
    delays = [timer.delay_s for timer in loop.timers]
    assert all(AGE_S <= delay <= 1.1 * AGE_S for delay in delays)
    assert len(set(delays)) > 1, "clients are spread"


def test_without_an_age_it_never_does(loop: Loop) -> None:
    stream = Stream(resting=True)
    age = StreamAge(stream, 0.0, GRACE_S)
    age.start()
    age.between_turns()
    age.stop()
    assert (loop.timers, stream.asked, age.asked) == ([], [], False)


def test_one_that_rests_is_asked_at_once_and_ended_when_its_time_is_over(loop: Loop) -> None:
    stream = Stream(resting=True)
    age = StreamAge(stream, AGE_S, GRACE_S)
    age.start()
    age.between_turns()
    assert not age.asked, "it is young"
    loop.timers[0].act()
    assert age.asked
    assert stream.asked == [GRACE_S]
    assert loop.timers[1].delay_s == GRACE_S
    age.between_turns()
    assert (stream.asked, stream.ended) == ([GRACE_S], []), "asked once, and given its time"
    loop.timers[1].act()
    assert [error.reason for error in stream.ended] == [Reason.DRAINING]


def test_one_in_a_turn_is_asked_after_it_and_never_ended_in_one(loop: Loop) -> None:
    stream = Stream()
    age = StreamAge(stream, AGE_S, GRACE_S)
    age.start()
    loop.timers[0].act()
    assert stream.asked == []
    age.between_turns()
    assert stream.asked == [GRACE_S]
    loop.timers[1].act()
    age.between_turns()
    assert stream.ended == [], "another turn runs already"
    stream.resting = True
    age.between_turns()
    assert [error.reason for error in stream.ended] == [Reason.DRAINING]


def test_a_stream_that_ends_grows_no_older(loop: Loop) -> None:
    age = StreamAge(Stream(resting=True), AGE_S, GRACE_S)
    age.start()
    age.stop()
    assert loop.timers[0].cancelled
    StreamAge(Stream(), AGE_S, GRACE_S).stop()
