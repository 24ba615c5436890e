"""What is taken of a body, and how the rest is refused."""

from __future__ import annotations

from typing import Any

import pytest

from sinkserve.web.errors import WebError
from sinkserve.web.openai.chat.request import ChatRequest
from sinkserve.web.openai.ids import TurnName, read_conversation, read_response
from sinkserve.web.openai.prompt import Message
from sinkserve.web.openai.responses.request import ResponseRequest

USER = {"role": "user", "content": "hello"}
CHAT = {"model": "demo", "messages": [USER]}
RESPONSE = {"model": "demo", "input": "hello"}


def test_a_chat_becomes_a_prompt() -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": "And kind."},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "reply", "refusal": None, "annotations": None},
        USER,
    ]
    given = {**CHAT, "messages": messages, "stop": "!", "max_completion_tokens": 5, "seed": -1, "temperature": 0}
    prompt = ChatRequest.parse({**given, "logprobs": True, "top_logprobs": 3, "tools": None}).prompt
    assert prompt.system == "Be brief.\n\nAnd kind."
    assert prompt.messages == (Message("user", "one two"), Message("assistant", "reply"), Message("user", "hello"))
    assert prompt.generation == {
        "max_new_tokens": 5,
        "stop": ["!"],
        "seed": (1 << 64) - 1,
        "logprobs": 3,
        "temperature": 0,
    }


def test_a_request_for_a_response_becomes_a_prompt() -> None:
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "hello", "annotations": []}],
        },
        USER,
    ]
    asked = ResponseRequest.parse({"model": "demo", "input": items, "instructions": "Be brief.", "store": False})
    prompt = asked.prompt
    assert (prompt.system, prompt.instructions, prompt.is_kept) == ("Be brief.", "Be brief.", False)
    assert [each.content for each in prompt.messages] == ["hi", "hello", "hello"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"logit_bias": {"1": 2}}, "logit_bias"),
        ({"n": 2}, "n"),
        ({"store": True}, "store"),
        ({"temperature": "hot"}, "temperature"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stream_options": {"include": True}}, "stream_options.include"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tool_choice": "maybe"}, "tool_choice"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema.schema"),
        ({"messages": [USER, {"role": "system", "content": "late"}, USER]}, "messages"),
        ({"messages": [USER, {"role": "assistant", "content": "last"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
        ({"messages": [{**USER, "name": "Ann"}]}, "messages[0].name"),
        ({"messages": [{**USER, "audio": {}}]}, "messages[0].audio"),
    ],
)
def test_what_a_chat_cannot_have_is_refused_by_name(body: dict[str, Any], param: str) -> None:
    with pytest.raises(WebError) as caught:
        _ = ChatRequest.parse({**CHAT, **body}).prompt
    assert caught.value.status == 400
    assert caught.value.param == param
    assert param.partition("[")[0] in str(caught.value)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"background": True}, "background"),
        ({"reasoning": {"effort": "low"}}, "reasoning"),
        ({"truncation": "disabled"}, "truncation"),
        ({"include": ["reasoning.encrypted_content"]}, "include[0]"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0]"),
        ({"conversation": "conv_a", "previous_response_id": "resp_a_1"}, "previous_response_id"),
    ],
)
def test_what_a_response_cannot_have_is_refused_by_name(body: dict[str, Any], param: str) -> None:
    with pytest.raises(WebError) as caught:
        asked = ResponseRequest.parse({**RESPONSE, **body})
        _ = asked.prompt, asked.conversation_id
    assert (caught.value.status, caught.value.param) == (400, param)


def test_what_one_reply_said_and_called_is_one_message() -> None:
    call = {
        "type": "function_call",
        "id": "fc_1",
        "call_id": "c1",
        "name": "now",
        "arguments": "{}",
        "status": "completed",
    }
    items = [
        USER,
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"role": "assistant", "content": "wait"},
        call,
        {**call, "call_id": "c2"},
        {"type": "function_call_output", "call_id": "c2", "output": "noon"},
    ]
    said = ResponseRequest.parse({**RESPONSE, "input": items}).prompt.messages
    assert [(each.role, each.content, len(each.calls), each.name) for each in said] == [
        ("user", "hello", 0, ""),
        ("assistant", "wait", 2, ""),
        ("tool", "noon", 0, "now"),
    ]


def test_an_id_says_session_and_turn() -> None:
    turn = TurnName("a-b0", 12)
    assert read_response(turn.response) == turn
    assert read_conversation("conv_a-b0") == "a-b0"
    for wrong in ("", "resp_a", "resp_a_0", "resp_A_1", "resp_a_1_2", "resp_../x_1", "resp_a_01", "conv_a"):
        with pytest.raises(WebError) as caught:
            read_response(wrong)
        assert caught.value.status == 404
