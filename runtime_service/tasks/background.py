"""Work that goes on although its caller is cancelled, and the one thread that writes to the database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Background:
    """Tasks that outlive the streams that asked for them. What they raise reaches the caller, if it still waits."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Begin `work` and keep it."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    async def complete(self, work: Coroutine[Any, Any, T], name: str) -> T:
        """Do `work` to its end, whether or not the caller waits for it that long."""
        return await asyncio.shield(self.start(work, name))

    async def wait(self) -> None:
        """Return when nothing is left."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()


class Writer:
    """One thread for what touches sessions in the database: in order, and never in the event loop."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sessions")

    async def do(self, act: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `act` in the thread."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, lambda: act(*args, **kwargs))

    def close(self) -> None:
        """Finish what was asked for and end the thread."""
        self._executor.shutdown()
