from __future__ import annotations

import asyncio
import threading

from builder_service.queue.changes import ANY, Changes, wait_for_change


async def test_a_change_wakes_those_who_wait_for_it_and_nobody_else() -> None:
    changes = Changes()
    with changes.listen("a") as of_a, changes.listen("b") as of_b, changes.listen(ANY) as of_any:
        changes.notify("a")
        await asyncio.wait_for(of_a.wait(), 30)
        await asyncio.wait_for(of_any.wait(), 30)
        assert not of_b.is_set()


async def test_a_change_may_come_from_any_thread() -> None:
    changes = Changes()
    with changes.listen("a") as first, changes.listen("a") as second:
        threading.Thread(target=changes.notify, args=("a",)).start()
        await asyncio.wait_for(asyncio.gather(first.wait(), second.wait()), 30)


async def test_who_stops_listening_leaves_nothing() -> None:
    changes = Changes()
    with changes.listen("a"), changes.listen("a"):
        assert changes.waiting == 2
    assert changes.waiting == 0
    changes.notify("a")
    await asyncio.sleep(0)
    assert changes.waiting == 0


def test_a_change_after_the_loops_end_is_nothing() -> None:
    async def make() -> Changes:
        return Changes()

    asyncio.run(make()).notify("a")


async def test_waiting_ends_by_itself() -> None:
    await wait_for_change(asyncio.Event(), 0.01)
