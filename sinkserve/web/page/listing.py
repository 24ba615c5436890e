"""The beginning of a listing."""

from __future__ import annotations

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
