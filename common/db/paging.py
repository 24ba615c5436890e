"""Pages of a listing (AIP-158): how many items, and an opaque token that says where the next page starts.

A page ends early where more would not fit a message: gRPC clients take 4 MiB unless they are told otherwise.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from common.controls import is_name
from common.digest import digest_of
from common.errors import InvalidArgument, Reason

DEFAULT_SIZE = 50
MOST = 1000
MOST_BYTES = 3 << 20
"""Bytes that the items of a page have at most, unless it is one item; what is around them needs the rest of 4 MiB."""
T = TypeVar("T")


@dataclass(frozen=True)
class Page:
    """One page of a listing: at most `size` items after the one with the key `after` (None: from the start)."""

    size: int
    after: tuple[str | int, ...] | None
    listing: str
    """Name of the listing, with its filters: a token of another listing is refused."""

    def fill(
        self, items: Iterable[T], size_of: Callable[[T], int], key_of: Callable[[T], tuple[str | int, ...]]
    ) -> tuple[list[T], str]:
        """The items of this page, from all that follow, in order; and the token of the next page. Takes no more of
        them than it has to; `size_of` gives about the bytes of one in a message.
        """
        kept: list[T] = []
        left = MOST_BYTES
        for item in items:
            left -= size_of(item)
            if kept and (len(kept) == self.size or left < 0):
                return kept, self.next_token(key_of(kept[-1]))
            kept.append(item)
        return kept, ""

    def next_token(self, last: tuple[str | int, ...] | None) -> str:
        """Token of the page after the item with the key `last`; None: there is none."""
        if last is None:
            return ""
        data = json.dumps([digest_of(self.listing.encode())[-16:], *last], separators=(",", ":"))
        return base64.urlsafe_b64encode(data.encode()).decode()


def read_page(size: int, token: str, listing: str, key: tuple[type[str | int], ...]) -> Page:
    """Page of a request for a listing whose items have keys of the types `key`.

    Raises InvalidArgument (INVALID_FIELD) for a negative size or a token that this listing did not give out.
    """
    if size < 0:
        raise InvalidArgument(
            Reason.INVALID_FIELD, f"page_size: {size} is negative; 0 means {DEFAULT_SIZE}", field="page_size"
        )
    after = _read_token(token, digest_of(listing.encode())[-16:], key) if token else None
    return Page(min(size or DEFAULT_SIZE, MOST), after, listing)


def _read_token(token: str, listing: str, types: tuple[type[str | int], ...]) -> tuple[str | int, ...]:
    try:
        found, *key = json.loads(base64.urlsafe_b64decode(token.encode()))
        if found == listing and tuple(map(type, key)) == types and all(map(_in_range, key)):
            return tuple(key)
    except (ValueError, TypeError, binascii.Error, RecursionError):
        pass
    raise InvalidArgument(
        Reason.INVALID_FIELD,
        "page_token: not the next_page_token of this listing with these filters",
        field="page_token",
    )


def _in_range(part: str | int) -> bool:
    """Numbers are versions, places in a row, or microseconds; none is beyond this, and databases take no more.

    Texts are ids and names.
    """
    return is_name(part) if isinstance(part, str) else 0 <= part < 2**53


def text_bytes(*texts: str | None) -> int:
    """Bytes of texts in a message; None has none."""
    return sum(len(text.encode()) for text in texts if text)
