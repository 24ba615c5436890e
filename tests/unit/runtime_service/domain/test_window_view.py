"""Which turns left, and which are whole, equals the definition by single tokens; whatever their lengths."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from common.window import SessionWindow
from runtime_service.domain.window_view import MOST_NAMED, TurnStart, WholeTurns
from tests.service.session_model.view import Span, notice_of, oldest_visible, start_of

WINDOWS = st.builds(SessionWindow, st.integers(0, 6), st.integers(1, 9))


@given(WINDOWS, st.integers(0, 20), st.lists(st.integers(0, 12), max_size=12))
def test_what_is_whole_and_what_has_left_is_what_the_window_says(
    window: SessionWindow, opening: int, lengths: list[int]
) -> None:
    whole, spans, position = WholeTurns(window.sinks), list[Span](), opening
    for number, length in enumerate(lengths):
        before = position
        position += length
        spans.append(Span(f"t{number}", range(before, position)))
        start = TurnStart(before, f"t{number}")
        notice = whole.add(start, position, start_of(window, before), start_of(window, position))
        assert notice == notice_of(window, before, position, spans)
        assert whole.oldest == oldest_visible(window, position, spans)


def test_a_notice_names_some_and_counts_all() -> None:
    whole = WholeTurns(0)
    for number in range(250):
        assert whole.add(TurnStart(number, f"t{number}"), number + 1, 0, 0) is None
    notice = whole.add(TurnStart(250, "long"), 500, 0, 249)
    assert notice is not None
    assert (notice.start, notice.end, notice.turns) == (0, 249, 249)
    assert notice.turn_ids == tuple(f"t{number}" for number in range(MOST_NAMED))
    assert whole.oldest == "t249"
