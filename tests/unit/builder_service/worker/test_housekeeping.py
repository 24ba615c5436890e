"""A builder deletes what is old until nothing is left, again and again, whatever fails in between."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from builder_service.worker.housekeeping import Housekeeping


class Scripted:
    """A retention that deletes, or fails, as it is told."""

    def __init__(self, *results: int | Exception) -> None:
        self.results = list(results)
        self.done = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def delete_some(self) -> int:
        if not self.results:
            self._loop.call_soon_threadsafe(self.done.set)
            return 0
        result = self.results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result


async def test_it_goes_on_until_nothing_is_left_and_after_what_fails() -> None:
    retention, deleted = Scripted(100, 7, 0, OSError("the database is away"), 3), list[int]()
    housekeeping = Housekeeping(cast("Any", retention), deleted.append, every_s=0.0)
    housekeeping.start()
    await retention.done.wait()
    await housekeeping.stop()
    assert deleted == [100, 7, 3]
