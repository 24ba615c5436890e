"""Questions in MT-Bench's form, and what is said of those that are not."""

from __future__ import annotations

import pytest

from sinkserve.evaluation.dialogues import Dialogue, read_dialogues

EXAMPLE = 'an object such as {"question_id": 81, "turns": ["Hello.", "And now?"]}'
FILE = """\
{"question_id": 81, "category": "writing", "turns": ["Write.", "Now\u2028again."], "reference": [null]}

{"question_id": "b", "turns": ["Hello."]}
not read
"""


def test_lines_are_read_in_order_with_their_turns_and_nothing_else() -> None:
    assert read_dialogues(FILE, first=2) == [
        Dialogue(81, "writing", ("Write.", "Now\u2028again.")),
        Dialogue("b", "", ("Hello.",)),
    ]
    assert len(read_dialogues(FILE, first=1)) == 1


@pytest.mark.parametrize(
    ("line", "faults"),
    [
        ("{", [f"has to be {EXAMPLE}: Invalid JSON: EOF while parsing an object at column 1"]),
        ("[1]", [f"has to be {EXAMPLE}: Input should be an object"]),
        ('{"question_id": 1}', ["turns is missing: it has to be a list of texts, at least one"]),
        (
            '{"question_id": true, "turns": []}',
            [
                "question_id has to be a whole number or a text, not True",
                "turns has to be a list of texts, at least one, not []",
            ],
        ),
        (
            '{"question_id": 1, "turns": ["a", " ", 5], "category": 3}',
            [
                "category has to be a text, or left out, not 3",
                "turns[1] has to be a text that says something, not ' '",
                "turns[2] has to be a text that says something, not 5",
            ],
        ),
        ('{"question_id": "b", "turns": ["x"]}', ["question_id 'b' is line 3's: each has its own"]),
    ],
)
def test_what_is_wrong_is_named_by_line_and_field_with_what_is_right(line: str, faults: list[str]) -> None:
    with pytest.raises(ValueError, match="line 4") as caught:
        read_dialogues(FILE.replace("not read", line))
    assert str(caught.value).splitlines() == [f"line 4: {fault}" for fault in faults]


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(ValueError, match="line 1: question_id is missing") as caught:
        read_dialogues('{"turns": ["x"]}\n{"question_id": 2}\n')
    assert "\nline 2: turns is missing" in str(caught.value)


def test_a_file_without_lines_is_no_file_of_questions() -> None:
    with pytest.raises(ValueError, match="there is no line"):
        read_dialogues("\n \n")


@pytest.mark.parametrize(("rounds", "turns"), [(1, "a"), (2, "ab"), (5, "ababa")])
def test_turns_are_repeated_in_order_until_there_are_enough(rounds: int, turns: str) -> None:
    assert Dialogue(1, "", ("a", "b")).of_rounds(rounds) == Dialogue(1, "", tuple(turns))
