from __future__ import annotations

import asyncio
import threading

import pytest

from runtime_service.tasks.background import Background, Writer


async def test_work_goes_on_when_who_waits_for_it_is_cancelled() -> None:
    background, go_on, done = Background(), asyncio.Event(), []

    async def work() -> None:
        await go_on.wait()
        done.append(True)

    waiting = asyncio.create_task(background.complete(work(), "work"))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not done
    go_on.set()
    await background.wait()
    assert done


async def test_who_waits_gets_what_it_returned_or_raised() -> None:
    async def divide(by: int) -> float:
        return 1 / by

    background = Background()
    assert await background.complete(divide(2), "work") == 0.5
    with pytest.raises(ZeroDivisionError):
        await background.complete(divide(0), "work")


async def test_waiting_includes_what_work_begins_and_outlives_what_it_raises() -> None:
    background, done = Background(), []

    async def second() -> None:
        done.append(True)

    async def first() -> None:
        background.start(second(), "second")
        raise ValueError("nobody hears of it")

    background.start(first(), "first")
    await background.wait()
    assert done


async def test_a_writer_calls_in_order_in_one_thread_and_finishes_when_it_is_closed() -> None:
    writer, called = Writer(), []

    def act(number: int, *, fail: bool = False) -> int:
        called.append((number, threading.current_thread()))
        if fail:
            raise ValueError(number)
        return number

    results = await asyncio.gather(
        writer.do(act, 1), writer.do(act, 2, fail=True), writer.do(act, 3), return_exceptions=True
    )
    assert (results[0], results[2]) == (1, 3)
    assert isinstance(results[1], ValueError)
    assert [number for number, _ in called] == [1, 2, 3]
    assert len({thread for _, thread in called}) == 1
    assert called[0][1] is not threading.current_thread()
    writer.close()
    with pytest.raises(RuntimeError):
        await writer.do(act, 4)
