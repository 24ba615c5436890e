"""Doing again what failed for a cause that passes.

How long to go on is in the waits: so many of them, or as many as fit into a time. Count them where a process may be
paused meanwhile, since the clock goes on and what is waited for gets no time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from itertools import takewhile
from typing import TypeVar

T = TypeVar("T")


async def retry(act: Callable[[], Awaitable[T]], passes: Callable[[Exception], bool], waits: Iterable[float]) -> T:
    """Await `act` until it does not fail with an error that `passes`, and sleep for one of `waits` after each.

    Raises the first error that does not pass, or the one for which no wait is left. Waits are in seconds.
    """
    left = iter(waits)
    while True:
        try:
            return await act()
        except Exception as error:
            if not passes(error) or (wait_s := next(left, None)) is None:
                raise
        await asyncio.sleep(wait_s)


def within(seconds: float, waits: Iterable[float]) -> Iterator[float]:
    """Those of `waits` that begin within `seconds` from now, by the clock."""
    ends = time.monotonic() + seconds
    return takewhile(lambda _: time.monotonic() <= ends, waits)


def growing(first: float, factor: float, most: float) -> Iterator[float]:
    """Waits without end, each `factor` times the one before, and none above `most`."""
    wait = first
    while True:
        yield wait
        wait = min(factor * wait, most)
