from __future__ import annotations

from sinkserve.client import Delta, ToolCallDelta
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from sinkserve.web.page.views import delta_view, session_view, time, turn_view, word


def test_enums_are_words_and_those_of_newer_servers_numbers() -> None:
    assert word(pb.Session(state=pb.Session.STATE_PARKED), "state") == "parked"
    assert word(pb.Session(), "state") == ""
    assert word(pb.Session.FromString(b"\x30\x63"), "state") == "99"  # field 6, a value that nobody knows yet


def test_a_time_that_is_not_set_is_empty() -> None:
    session = pb.Session()
    assert time(session.last_active_time) == ""
    session.last_active_time.FromSeconds(0)
    session.last_active_time.nanos = 1
    assert time(session.last_active_time) == "1970-01-01T00:00:00.000000001Z"


def test_a_session_has_what_its_cache_is_drawn_from() -> None:
    options = pb.SessionOptions(sink_tokens=4, window_tokens=60, on_full=pb.SessionOptions.ON_FULL_NOTIFY)
    shown = session_view(pb.Session(position=100, window_start_position=40, evicted_tokens=36, options=options))
    assert (shown["position"], shown["window_start_position"], shown["evicted_tokens"]) == (100, 40, 36)
    assert (shown["options"]["sink_tokens"], shown["options"]["on_full"]) == (4, "notify")


def test_what_went_in_is_messages_whatever_it_was() -> None:
    chat = pb.ChatMessages(
        messages=[pb.ChatMessage(role="tool", content="7"), pb.ChatMessage(role="user", content="?")]
    )
    assert [each["role"] for each in turn_view(pb.TurnRecord(messages=chat))["input"]] == ["tool", "user"]
    tokens = pb.TokenIds(ids=range(1200))
    assert turn_view(pb.TurnRecord(token_ids=tokens))["input"] == [{"role": "user", "content": "1,200 tokens"}]


def test_a_result_says_of_which_call_it_is_and_can_be_sent_again() -> None:
    result = pb.ChatMessage(role="tool", content="7", tool_call_id="c1", name="add")
    shown = turn_view(pb.TurnRecord(messages=pb.ChatMessages(messages=[result])))
    assert shown["input"] == [{"role": "tool", "content": "7", "tool_call_id": "c1", "name": "add"}]
    assert shown["can_be_sent_again"]


def test_what_the_page_does_not_have_whole_or_cannot_say_is_not_sent_again() -> None:
    calls = pb.ChatMessage(role="assistant", tool_calls=[pb.ToolCall(id="1", name="add", arguments="{}")])
    turns = (
        pb.TurnRecord(text="a", shortened=True),
        pb.TurnRecord(token_ids=pb.TokenIds(ids=[7])),
        pb.TurnRecord(messages=pb.ChatMessages(messages=[calls, pb.ChatMessage(role="user", content="?")])),
    )
    assert [turn_view(turn)["can_be_sent_again"] for turn in turns] == [False] * 3
    assert turn_view(turns[2])["input"][0]["tool_calls"] == [{"id": "1", "name": "add", "arguments": "{}"}]


def test_a_piece_says_only_what_it_has() -> None:
    assert delta_view(Delta("", (5, 6))) == {"tokens": 2}
    assert delta_view(Delta("a", (5,))) == {"tokens": 1, "text": "a"}


def test_calls_and_thoughts_are_shown_and_a_piece_of_a_call_says_of_which() -> None:
    whole, piece = {"id": "1", "name": "add", "arguments": "{}"}, {"index": 1, "id": "", "name": "", "arguments": "{"}
    turn = turn_view(pb.TurnRecord(reasoning="so", tool_calls=[pb.ToolCall(id="1", name="add", arguments="{}")]))
    assert (turn["reasoning"], turn["tool_calls"]) == ("so", [whole])
    delta = Delta("", (5,), reasoning="so", tool_calls=(ToolCallDelta(1, arguments="{"),))
    assert delta_view(delta) == {"tokens": 1, "reasoning": "so", "tool_calls": [piece]}
