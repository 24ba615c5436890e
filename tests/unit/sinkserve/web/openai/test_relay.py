"""What of a reply that comes again is new."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinkserve.client import Delta, ToolCallDelta
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from sinkserve.web.errors import WebError
from sinkserve.web.openai.relay import Relay

CUTS = st.lists(st.integers(0, 30), max_size=6)


def deltas(text: str, cuts: list[int], attempt: int, until: int | None = None) -> list[Delta]:
    """A reply of a token a character, in the portions that `cuts` make of it."""
    ends = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    parts = [text[start:end] for start, end in pairwise(ends)][:until]
    return [
        Delta(part, tuple(map(ord, part)), tuple(pb.TokenLogprobs(token_id=ord(each)) for each in part), attempt)
        for part in parts
    ]


@given(st.text("abc", max_size=30), st.lists(st.tuples(CUTS, st.integers(0, 6)), max_size=4), CUTS)
def test_each_character_and_token_comes_once_however_often_a_reply_begins_anew(
    text: str, broken: list[tuple[list[int], int]], whole: list[int]
) -> None:
    relay, pieces = Relay(), []
    for attempt, (cuts, until) in enumerate(broken, start=1):
        pieces += [relay.take(each) for each in deltas(text, cuts, attempt, until)]
    pieces += [relay.take(each) for each in deltas(text, whole, len(broken) + 1)]
    came = [piece for piece in pieces if piece is not None]
    assert "".join(piece.text for piece in came) == text == relay.sent
    assert "".join(chr(each.token_id) for piece in came for each in piece.logprobs) == text


def test_the_same_attempt_told_again_is_not_told_again() -> None:
    relay = Relay()
    assert relay.take(Delta("hel", (1,))) is not None
    relay.restart()
    assert relay.take(Delta("he", (1,))) is None
    piece = relay.take(Delta("llo", (2,)))
    assert piece is not None
    assert piece.text == "lo"


def test_a_reply_that_came_out_otherwise_is_an_error() -> None:
    relay = Relay()
    relay.take(Delta("hello", (1,)))
    relay.take(Delta("he", (1,), attempt=2))
    with pytest.raises(WebError, match="began anew"):
        relay.take(Delta("ap", (2,), attempt=2))


def test_calls_and_thoughts_that_come_again_are_not_told_again() -> None:
    relay = Relay()
    first = relay.take(Delta("", (1,), reasoning="so", tool_calls=(ToolCallDelta(0, "id", "name", "{"),)))
    assert first is not None
    assert (first.reasoning, first.calls) == ("so", (ToolCallDelta(0, "id", "name", "{"),))
    again = (
        Delta("", (1,), attempt=2, reasoning="so"),
        Delta("", (), (), 2, "", (ToolCallDelta(0, "id", "name", "{"),)),
    )
    assert [relay.take(each) for each in again] == [None, None]
    piece = relay.take(Delta("", (2,), attempt=2, tool_calls=(ToolCallDelta(0, arguments="}"),)))
    assert piece is not None
    assert piece.calls == (ToolCallDelta(0, arguments="}"),)
