from __future__ import annotations

import base64

import pytest

from common.db.paging import MOST, MOST_BYTES, read_page
from common.errors import InvalidArgument


def test_sizes_have_a_default_and_a_limit() -> None:
    assert read_page(0, "", "x", (str, int)).size == 50
    assert read_page(7, "", "x", (str, int)).size == 7
    assert read_page(10**9, "", "x", (str, int)).size == MOST
    with pytest.raises(InvalidArgument, match="page_size") as caught:
        read_page(-1, "", "x", (str, int))
    assert caught.value.violations[0].field == "page_size"


def test_a_token_says_where_the_next_page_starts() -> None:
    token = read_page(5, "", "engines", (str, int)).next_token(("demo", 3))
    assert read_page(5, token, "engines", (str, int)).after == ("demo", 3)


def test_there_is_no_token_after_the_last_page() -> None:
    assert read_page(5, "", "engines", (str, int)).next_token(None) == ""


def test_a_page_ends_before_more_than_a_message_holds_and_goes_on_from_there() -> None:
    sizes = [1 << 20, 1 << 20, MOST_BYTES + 5, 3, 1 << 20, 1 << 20, 1 << 20]
    items, pages, after = list(enumerate(sizes)), [], 0
    while True:
        rest = iter(items[after:])
        kept, token = read_page(5, "", "x", (int,)).fill(rest, lambda item: item[1], lambda item: (item[0],))
        pages.append([number for number, _ in kept])
        if not token:
            break
        assert len(list(rest)) >= len(items) - after - len(kept) - 1, "no more is read than one item beyond the page"
        after = int(read_page(5, token, "x", (int,)).after[0]) + 1  # type: ignore[index]
    assert pages == [[0, 1], [2], [3, 4, 5], [6]]


def test_a_page_has_as_many_items_as_were_asked_for() -> None:
    page = read_page(2, "", "x", (int,))
    assert page.fill([1, 2], lambda _: 1, lambda item: (item,)) == ([1, 2], "")
    assert page.fill([1, 2, 3], lambda _: 1, lambda item: (item,)) == ([1, 2], page.next_token((2,)))


def test_a_token_of_another_listing_is_refused() -> None:
    token = read_page(5, "", "engines of demo", (str, int)).next_token(("demo", 3))
    with pytest.raises(InvalidArgument, match="page_token"):
        read_page(5, token, "engines of other", (str, int))


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"12", b"[[[", b'["x", 1]', b"\xff\xfe", b"[" * 100_000])
def test_a_token_nobody_gave_out_is_refused(data: bytes) -> None:
    for token in (base64.urlsafe_b64encode(data).decode(), "%", "ü", "abc"):
        if token:
            with pytest.raises(InvalidArgument, match="page_token"):
                read_page(5, token, "engines", (str, int))


@pytest.mark.parametrize(
    "key", [(), ("demo",), ("demo", "a"), (3, "demo"), ("demo", 10**40), ("demo", -1), ("demo", True)]
)
def test_a_token_with_a_key_of_another_kind_is_refused(key: tuple[str | int, ...]) -> None:
    token = read_page(5, "", "engines", (str, int)).next_token(key)
    with pytest.raises(InvalidArgument, match="page_token"):
        read_page(5, token, "engines", (str, int))
