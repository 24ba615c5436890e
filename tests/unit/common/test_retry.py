from __future__ import annotations

import asyncio
import time
from itertools import islice, repeat

import pytest

from common.retry import growing, retry, within


class Passing(Exception):
    pass


class Script:
    """Raises or returns one outcome after the other."""

    def __init__(self, *outcomes: Exception | str) -> None:
        self.left = list(outcomes)

    async def act(self) -> str:
        outcome = self.left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What was slept, without sleeping."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return waits


def _passes(error: Exception) -> bool:
    return isinstance(error, Passing)


async def test_it_is_done_again_until_it_succeeds(slept: list[float]) -> None:
    script = Script(Passing(), Passing(), "done", "not asked for")
    assert await retry(script.act, _passes, [1, 2, 3]) == "done"
    assert (slept, script.left) == ([1, 2], ["not asked for"])


async def test_the_last_error_is_raised_when_no_wait_is_left(slept: list[float]) -> None:
    last = Passing("last")
    script = Script(Passing("first"), Passing("second"), last)
    with pytest.raises(Passing) as raised:
        await retry(script.act, _passes, repeat(1, 2))
    assert raised.value is last
    assert slept == [1, 1]


async def test_what_does_not_pass_is_raised_at_once(slept: list[float]) -> None:
    with pytest.raises(ValueError, match="wrong"):
        await retry(Script(Passing(), ValueError("wrong"), "done").act, _passes, repeat(1))
    assert slept == [1]


async def test_a_cancel_ends_it() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await retry(Script(Passing(), "done").act, _passes, [3600])


def test_waits_end_with_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    waits = within(10, repeat(1))
    assert list(islice(waits, 5)) == [1] * 5, "the clock stands still"
    now = 110.0
    assert next(waits) == 1
    now = 110.5
    assert next(waits, None) is None


def test_growing_waits_grow_to_their_bound() -> None:
    assert list(islice(growing(1, 2, 5), 5)) == [1, 2, 4, 5, 5]
