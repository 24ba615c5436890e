"""The beginning or the end of a listing."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from typing import TypeVar

T = TypeVar("T")


async def first(items: AsyncIterator[T], limit: int) -> tuple[list[T], bool]:
    """At most `limit` items, and whether there are more."""
    found: list[T] = []
    async for item in items:
        if len(found) == limit:
            return found, True
        found.append(item)
    return found, False


async def last(items: AsyncIterator[T], limit: int) -> tuple[list[T], int]:
    """The last `limit` items, and how many come before them."""
    count, found = 0, deque[T](maxlen=limit)
    async for item in items:
        count += 1
        found.append(item)
    return list(found), count - len(found)
