from __future__ import annotations

import asyncio

import pytest

from common.errors import Reason, Unavailable
from runtime_service.tasks import periodic
from runtime_service.tasks.periodic import Periodic


@pytest.mark.parametrize("error", [None, Unavailable(Reason.DATABASE_UNAVAILABLE, "away"), ValueError("wrong")])
async def test_work_is_done_again_whatever_it_raises(error: Exception | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(periodic, "RETRY_S", 0)
    tasks, often, calls = Periodic(), asyncio.Event(), 0

    async def act() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            often.set()
        if error is not None:
            raise error

    tasks.start("work", 0, act)
    await often.wait()
    await tasks.stop()
    done = calls
    for _ in range(5):
        await asyncio.sleep(0)
    assert (calls, [task.cancelled() for task in tasks.tasks]) == (done, [True])


async def test_the_first_time_is_not_at_once() -> None:
    tasks, calls = Periodic(), 0

    async def act() -> None:
        nonlocal calls
        calls += 1

    tasks.start("work", 3600, act)
    await asyncio.sleep(0)
    await tasks.stop()
    assert calls == 0
