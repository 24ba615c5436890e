"""The picture of a window: every part that there is can be seen, in any terminal, with its numbers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from sinkserve.cli.terminal.window_picture import WIDEST, bar, parts_of, picture
from sinkserve.runtime.v1.conversation_service_pb2 import Session, SessionOptions


def _session(position: int, *, sinks: int = 4, window: int = 252, slide: int = 0) -> Session:
    start = max(sinks, position - window + slide)
    options = SessionOptions(sink_tokens=sinks, window_tokens=window)
    return Session(position=position, window_start_position=start, evicted_tokens=start - sinks, options=options)


def _lines(session: Session, width: int = 60, oldest: str = "") -> list[str]:
    return [Text.from_markup(line).plain for line in picture(session, width, oldest)]


def test_a_session_that_has_forgotten_shows_what() -> None:
    assert _lines(_session(10_000), oldest='"my cat"') == [
        "█" + "░" * 20 + "▓" * 39,
        "█ sinks      4 tokens · 0 to 3 · kept for ever",
        "░ forgotten  9,744 tokens · 4 to 9,747 · out of the model's sight",
        "▓ visible    252 tokens · 9,748 to 9,999 · of 252, full",
        'whole from here on: "my cat"',
    ]


def test_a_session_that_is_not_full_shows_its_room() -> None:
    bar_line, *legend = _lines(_session(130))
    assert set(bar_line) == {"█", "▓", "·"}
    assert 0.4 < bar_line.count("▓") / len(bar_line) < 0.6
    assert legend == [
        "█ sinks      4 tokens · 0 to 3 · kept for ever",
        "▓ visible    126 tokens · 4 to 129 · of 252, 50% full",
    ]


def test_a_session_in_which_no_turn_is_whole_says_so() -> None:
    assert _lines(_session(10_000))[-1] == "not even the last turn is whole in view"


def test_a_session_without_a_word_says_so() -> None:
    assert _lines(_session(0, window=0)) == ["nothing was said yet"]


@given(
    st.integers(0, 10**9),
    st.integers(0, 64),
    st.integers(1, 10_000),
    st.integers(0, 300),
)
def test_a_bar_is_as_wide_as_asked_for_and_shows_every_part(position: int, sinks: int, window: int, width: int) -> None:
    session = _session(position, sinks=sinks, window=window)
    parts = parts_of(session)
    lengths = [length for _, length in bar(parts, width)]
    assert sum(lengths) == max(8, min(width, WIDEST))
    assert min(lengths) >= 1
    seen = sum(part.tokens for part in parts if part.name != "room")
    assert seen == position, "every token is in one part"
    assert [part.start for part in parts] == sorted(part.start for part in parts)
