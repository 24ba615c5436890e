"""What texts are found by, in any script, and that no text costs more than its bound."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime_service.recall.words import MOST_ASKED, MOST_KEPT, asked_words, kept_words


def found(said: str, asked: str) -> bool:
    """Whether a turn shares a word with a question."""
    return bool(set(kept_words([said])) & set(asked_words([asked])))


@pytest.mark.parametrize(
    ("said", "asked"),
    [
        ("My name is Zoë", "zoe?"),
        ("the code in line 1234", "1234"),
        ("set max_new_tokens to 5", "what is MAX_NEW_TOKENS"),
        ("set max_new_tokens to 5", "tokens"),
        ("class HTTPServer:", "server"),
        ("maxTokens", "TOKENS"),
        ("line17 fails", "17"),
        ("line 17 fails", "LINE17"),
        ("第17行", "第 17"),
        ("die Größe der Straße", "GRÖSSE"),
        ("Привет, мой друг", "ДРУГ"),
        ("東京の天気はどうですか", "天気"),
        ("黒猫がいる", "猫"),
        ("カタカナを話す", "カタカナ"),
        ("ฉันชอบกินข้าว", "ข้าว"),
        ("내 이름은 철수입니다", "이름이 뭐예요"),
        ("मेरा नाम राम है", "राम कौन है"),
        ("العَرَبِيَّة", "العربية"),
        ("שָׁלוֹם", "שלום"),
        ("ﬁne", "FINE"),
        ("\uff21\uff22\uff23\uff11\uff12", "abc12"),
        ("call 555-0123 now", "0123"),
        ("file:///etc/hosts", "hosts"),
        ("İstanbul", "istanbul"),
    ],
)
def test_a_question_finds_what_was_said(said: str, asked: str) -> None:
    assert found(said, asked)


@pytest.mark.parametrize(
    ("said", "asked"), [("cat", "dog"), ("東京", "京都府"[1:]), ("12", "123"), ("", "x"), ("...", "!?"), ("a", "")]
)
def test_a_question_does_not_find_what_is_something_else(said: str, asked: str) -> None:
    assert not found(said, asked)


def test_of_a_long_question_the_numbers_and_long_words_are_asked_for() -> None:
    filler = " ".join(f"{a}{b}" for a in "abcdefghijkl" for b in "mnopqrs")
    asked = set(asked_words([f"{filler} 4711 extraordinary"]))
    assert len(asked) == MOST_ASKED
    assert {*kept_words(["4711"]), *kept_words(["extraordinary"])} <= asked


def test_a_number_is_found_with_the_word_before_it_besides() -> None:
    assert len({*kept_words(["line 17: it is 4"])} & {*asked_words(["line 4"])}) == len({"line", "4"})
    assert asked_words(["line 17"]) == (*kept_words(["line"]), *kept_words(["x line17"])[1:2], *kept_words(["17"]))
    assert len(kept_words(["17 18"])) == len({"17", "18"})


def test_of_an_endless_text_both_ends_count() -> None:
    text = f"beginning {'filler ' * 200_000} ending"
    assert found(text, "beginning")
    assert found(text, "ending")


@given(st.text(max_size=3000), st.text(max_size=300))
def test_any_text_has_a_bounded_number_of_words_of_32_bits(said: str, asked: str) -> None:
    kept, wanted = kept_words([said, asked]), asked_words([asked])
    assert (len(kept) <= MOST_KEPT, len(wanted) <= MOST_ASKED) == (True, True)
    assert len(set(kept)) == len(kept)
    assert all(-(1 << 31) <= word < 1 << 31 for word in (*kept, *wanted))


@given(st.text(max_size=200))
def test_what_is_said_is_found_by_the_same_words(text: str) -> None:
    if asked_words([text]):
        assert found(text, text)
