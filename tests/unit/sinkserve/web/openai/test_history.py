"""By which labels a history is found again."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinkserve.client import Tool, ToolCall
from sinkserve.web.errors import WebError
from sinkserve.web.openai.history import (
    beginnings,
    check_instructions,
    first_labels,
    goes_without_tools,
    labels_behind,
    metadata_of,
    title_label,
    turn_of,
    turn_of_attempt,
    with_attempt,
    with_metadata,
)
from sinkserve.web.openai.prompt import Message, Prompt

SAID = st.tuples(st.sampled_from(["user", "assistant"]), st.text(max_size=3))
MESSAGES = st.lists(SAID.map(lambda said: Message(*said)), max_size=30)


DEMO = Prompt("demo", "", (), {})


def exchange(*texts: str) -> list[Message]:
    return [Message(("user", "assistant")[index % 2], text) for index, text in enumerate(texts)]


@given(MESSAGES)
def test_every_reply_ends_a_beginning_and_the_longest_is_first(messages: list[Message]) -> None:
    found = beginnings(DEMO, messages)
    replies = [index for index, each in enumerate(messages, start=1) if each.role == "assistant"]
    assert [each.messages for each in found] == replies[::-1]
    assert [each.replies for each in found] == list(range(len(replies), 0, -1))


@given(MESSAGES, MESSAGES)
def test_histories_have_one_digest_only_where_they_are_one(one: list[Message], other: list[Message]) -> None:
    ended = [[*each, Message("assistant", "")] for each in (one, other)]
    digests = [beginnings(DEMO, each)[0].digest for each in ended]
    assert (digests[0] == digests[1]) == (one == other)


@pytest.mark.parametrize(
    "begin",
    [
        replace(DEMO, model="other"),
        replace(DEMO, system="Be brief."),
        replace(DEMO, model="dem", system="o"),
        replace(DEMO, tools=({"name": "weather"},)),
    ],
)
def test_another_engine_system_or_tool_is_another_history(begin: Prompt) -> None:
    assert beginnings(begin, exchange("a", "b")) != beginnings(DEMO, exchange("a", "b"))


def test_a_session_is_found_at_the_turn_that_ended_there() -> None:
    own = {f"own {number}": "x" for number in range(16)}  # as many as a request may give
    labels = first_labels(own, "Be brief.", ({"name": "weather"},)) | title_label([Message("user", "hello")])
    messages = exchange("told", "before", "hello")
    for number in range(1, 40):
        messages = [*messages, Message("assistant", f"reply {number}")]
        known = beginnings(DEMO, messages)[0]
        labels = labels_behind(known, "s", number, labels)
        assert turn_of(known, "s", labels) == number
        assert known.label.items() <= labels.items()
        messages = [*messages, Message("user", "more")]
    assert len(labels) <= 32, "as many as a session may have"
    assert metadata_of(labels) == own
    assert labels["openai.title"] == "hello"


@pytest.mark.parametrize(
    ("said", "title"),
    [
        ("hello", "hello"),
        (" two\n lines\x07and a bell", "two lines and a bell"),
        ("word " * 1000, "word " * 15 + "word…"),
        ("\u202eturned\u2028and \u200e\x85left", "turned and left"),
        ("\n\u2066", None),
    ],
)
def test_a_title_is_the_first_words_of_the_user_on_one_line(said: str, title: str | None) -> None:
    messages = [Message("assistant", "welcome"), Message("user", said), Message("user", "other words")]
    assert title_label(messages).get("openai.title") == title


def test_a_fork_is_not_found_by_the_labels_that_it_was_copied_with() -> None:
    known = beginnings(DEMO, exchange("a", "b", "c", "d"))
    labels: dict[str, str] = {}
    for number, each in enumerate(reversed(known), start=1):
        labels = labels_behind(each, "source", number, labels)
    assert turn_of(known[0], "fork", labels) is None
    other = beginnings(DEMO, exchange("a", "b", "c", "otherwise"))[0]
    forked = labels_behind(other, "fork", 2, labels)
    assert turn_of(known[1], "fork", forked) == 1
    assert not known[0].label.items() <= forked.items()


def test_calls_are_the_same_however_their_arguments_are_written() -> None:
    digests = set()
    for arguments in ('{"a": 1, "b": [2]}', '{"b":[2],"a":1}', "no JSON", "no  JSON"):
        messages = [Message("user", "x"), Message("assistant", "", (ToolCall("id", "name", arguments),))]
        digests.add(beginnings(DEMO, messages)[0].digest)
    assert len(digests) == 3


def test_tools_stay_as_they_were_at_first() -> None:
    tools: tuple[Tool, ...] = ({"name": "weather"},)
    labels = first_labels({}, None, tools)
    assert [goes_without_tools(labels, each) for each in (tools, ())] == [False, True]
    assert not goes_without_tools({}, ())
    for before in (labels, {}):
        with pytest.raises(WebError, match="other tools"):
            goes_without_tools(before, ({"name": "other"},))


def test_instructions_stay_as_they_were_at_first() -> None:
    labels = first_labels({"topic": "cats"}, "Be brief.")
    for same in (None, "Be brief."):
        check_instructions(labels, same)
    check_instructions(first_labels({}, None), "")
    for bad, other in ((labels, "Be long."), (labels, ""), (first_labels({}, ""), "Be brief.")):
        with pytest.raises(WebError, match="other instructions"):
            check_instructions(bad, other)
    changed = with_metadata(labels, {"topic": "dogs"})
    assert metadata_of(changed) == {"topic": "dogs"}
    check_instructions(changed, "Be brief.")


@pytest.mark.parametrize("metadata", [{"k" * 64: ""}, {"k": "v" * 256}, {"openai.1": "v"}])
def test_metadata_that_labels_cannot_hold_is_refused(metadata: dict[str, str]) -> None:
    with pytest.raises(WebError, match="metadata"):
        first_labels(metadata, None)


def name_of(number: int) -> str:
    """Of an attempt."""
    return f"{number:012x}".ljust(32, "0")


def test_the_last_attempts_of_a_session_are_known_by_their_turns() -> None:
    labels: dict[str, str] = {"topic": "cats"}
    for number in range(1_000_000, 1_000_040):
        labels = with_attempt(labels, number, name_of(number))
        assert len(labels["openai.keys"]) <= 255
    assert [turn_of_attempt(labels, name_of(number)) for number in (1_000_000, 1_000_039)] == [None, 1_000_039]
    assert turn_of_attempt(with_attempt(labels, 1_000_039, "b" * 32), name_of(1_000_039)) is None
    assert sum(turn_of_attempt(labels, name_of(number)) is not None for number in range(1_000_000, 1_000_040)) >= 11
    assert metadata_of(labels) == {"topic": "cats"}
    assert with_metadata(labels, {})["openai.keys"] == labels["openai.keys"]


def test_a_session_of_sixteen_metadata_has_room_for_all_labels() -> None:
    labels = first_labels({f"key {number}": "" for number in range(16)}, "Be brief.", [Tool(name="f")])
    labels = with_attempt(labels, 1, "a" * 32) | title_label([Message("user", "hello")])
    said = exchange(*map(str, range(60)))
    for number in range(1, 31):
        known = beginnings(DEMO, said[: 2 * number])[0]
        labels = labels_behind(known, "s", number, labels)
    assert len(labels) == 32
    assert turn_of_attempt(labels, "a" * 32) == 1
