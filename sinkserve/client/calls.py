"""Calls as every resource makes them: errors become ours, lists are followed to their last page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

import grpc

from sinkserve.client.errors import from_call

PAGE_SIZE = 200

T = TypeVar("T")
Item_co = TypeVar("Item_co", covariant=True)


class Page(Protocol):
    """An answer of a List method."""

    @property
    def next_page_token(self) -> str: ...


P = TypeVar("P", bound=Page)


async def answer(call: Awaitable[T], address: str) -> T:
    """The answer to a call to `address`; raises SinkServeError."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise from_call(error, address) from None


async def pages(
    fetch: Callable[[str], Awaitable[P]], items: Callable[[P], Sequence[T]], address: str
) -> AsyncIterator[T]:
    """Every item of a list; `fetch` takes a page token."""
    token = ""
    while True:
        page = await answer(fetch(token), address)
        for item in items(page):
            yield item
        token = page.next_page_token
        if not token:
            return
