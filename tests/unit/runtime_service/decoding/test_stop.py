import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime_service.decoding.stop import StopFinder


def run(pieces: list[str], stops: list[str]) -> tuple[str, str | None]:
    finder = StopFinder(stops)
    released = ""
    for piece in pieces:
        released += finder.push(piece)
        if finder.found is not None:
            return released, finder.found
    return released + finder.flush(), None


def expected(text: str, stops: list[str]) -> tuple[str, str | None]:
    """By the definition: the first end of any stop text; of those that end there, the longest."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            found = max(complete, key=len)
            return text[: end - len(found)], found
    return text, None


def test_without_stop_texts_everything_passes_at_once() -> None:
    finder = StopFinder([])
    assert finder.push("anything") == "anything"
    assert finder.flush() == ""


def test_a_stop_text_is_found_across_pieces_and_not_released() -> None:
    assert run(["Hello ", "w", "orl", "d and more"], ["world"]) == ("Hello ", "world")


def test_a_possible_beginning_is_held_until_it_is_decided() -> None:
    finder = StopFinder(["world"])
    assert finder.push("a wor") == "a "
    assert finder.push("m") == "worm"
    assert finder.push("wor") == ""
    assert finder.flush() == "wor"
    assert finder.flush() == ""


def test_only_what_may_still_match_is_held() -> None:
    finder = StopFinder(["abab"])
    assert finder.push("aba") == ""
    assert finder.push("a") == "aba"  # only the last "a" may still begin it
    assert finder.push("bab") == ""
    assert finder.found == "abab"


def test_the_first_to_be_complete_wins() -> None:
    assert run(["abcd"], ["abcd", "bc"]) == ("a", "bc")


def test_of_those_that_end_together_the_longest_wins() -> None:
    assert run(["xabc"], ["c", "bc", "abc"]) == ("x", "abc")


def test_nothing_may_follow_a_match() -> None:
    finder = StopFinder(["x"])
    finder.push("x")
    assert finder.flush() == ""
    with pytest.raises(AssertionError):
        finder.push("y")


SHORT = st.text(alphabet="ab\n", min_size=1, max_size=4)


@given(st.lists(st.text(alphabet="ab\n", max_size=5), max_size=12), st.lists(SHORT, max_size=4))
def test_the_cut_depends_on_the_text_alone(pieces: list[str], stops: list[str]) -> None:
    assert run(pieces, stops) == expected("".join(pieces), stops)


@given(st.lists(st.text(alphabet="ab", max_size=3), max_size=12), st.lists(SHORT, min_size=1, max_size=3))
def test_no_more_is_held_than_could_begin_a_stop_text(pieces: list[str], stops: list[str]) -> None:
    finder = StopFinder(stops)
    text = released = ""
    for piece in pieces:
        released += finder.push(piece)
        text += piece
        if finder.found is not None:
            break
        held = text.removeprefix(released)
        assert released + held == text
        assert held == "" or any(stop.startswith(held) for stop in stops)
        longer = [text[start:] for start in range(len(released)) if any(s.startswith(text[start:]) for s in stops)]
        assert not longer
