"""Tools by OpenAI's own client: declared, called, answered, in both interfaces."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from sinkserve.client import Client
from tests.service.runtime.runtime import Bench
from tests.service.web.door import NOBODY, door_to, openai_at

TOWN = {
    "type": "object",
    "properties": {"town": {"enum": ["Graz", "Ulm"]}},
    "required": ["town"],
    "additionalProperties": False,
}
WEATHER = {"name": "weather", "description": "How it is outside.", "parameters": TOWN}
ASKED = {"model": "demo", "temperature": 1, "tool_choice": "required"}


@pytest.fixture
async def ai(tooled: Bench) -> AsyncIterator[openai.AsyncOpenAI]:
    async with door_to(tooled.handle.address) as url, openai_at(url) as client:
        yield client


async def fed(tooled: Bench) -> list[list[list[tuple[str, str]]]]:
    """Roles and names of the messages of each turn of each session."""
    async with Client(tooled.handle.address, NOBODY) as sdk:
        return [
            [[(each.role, each.name) for each in turn.messages.messages] async for turn in sdk.sessions.turns(name)]
            async for name in _names(sdk)
        ]


async def _names(sdk: Client) -> AsyncIterator[str]:
    async for session in sdk.sessions.list():
        yield session.name


async def test_a_response_calls_and_is_answered(ai: Any, tooled: Bench) -> None:
    tools = [{"type": "function", **WEATHER, "strict": True}]
    async with ai.responses.stream(input="and outside?", tools=tools, **ASKED) as stream:
        pieces = [event async for event in stream]
        first = await stream.get_final_response()
    calls = [item for item in first.output if item.type == "function_call"]
    assert {call.name for call in calls} == {"weather"}
    assert all(json.loads(call.arguments)["town"] in {"Graz", "Ulm"} for call in calls)
    streamed = [piece.delta for piece in pieces if piece.type == "response.function_call_arguments.delta"]
    assert "".join(streamed) == "".join(call.arguments for call in calls)
    kept = await ai.responses.retrieve(first.id)
    assert [item.call_id for item in kept.output if item.type == "function_call"] == [each.call_id for each in calls]
    answers = [{"type": "function_call_output", "call_id": each.call_id, "output": "21 degrees"} for each in calls]
    asked = {"model": "demo", "previous_response_id": first.id, "max_output_tokens": 4}
    second = await ai.responses.create(input=answers, tools=tools, **asked)
    assert await fed(tooled) == [[[("user", "")], [("tool", "weather")] * len(calls)]]
    items = (await ai.responses.input_items.list(second.id)).data
    assert [(item.type, item.call_id) for item in items] == [(each["type"], each["call_id"]) for each in answers]
    with pytest.raises(openai.BadRequestError, match="other tools"):
        await ai.responses.create(input="x", tools=[{**tools[0], "name": "other"}], **asked)


@pytest.mark.parametrize("streams", [False, True])
async def test_a_chat_calls_and_its_history_is_known(ai: Any, tooled: Bench, streams: bool) -> None:
    tools = [{"type": "function", "function": WEATHER}]
    history: list[Any] = [{"role": "user", "content": "and outside?"}]
    if streams:
        async with ai.chat.completions.stream(messages=history, tools=tools, **ASKED) as stream:
            chat = await stream.get_final_completion()
    else:
        chat = await ai.chat.completions.create(messages=history, tools=tools, **ASKED)
    choice = chat.choices[0]
    assert choice.finish_reason == "tool_calls"
    calls = choice.message.tool_calls
    assert all(json.loads(call.function.arguments)["town"] in {"Graz", "Ulm"} for call in calls)
    said = [
        {"id": call.id, "type": "function", "function": call.function.model_dump(include={"name", "arguments"})}
        for call in calls
    ]
    history += [{"role": "assistant", "content": choice.message.content, "tool_calls": said}]
    history += [{"role": "tool", "tool_call_id": call.id, "content": "21 degrees"} for call in calls]
    await ai.chat.completions.create(messages=history, tools=tools, model="demo", max_tokens=4)
    assert await fed(tooled) == [[[("user", "")], [("tool", "weather")] * len(calls)]]


async def test_tools_that_are_no_functions_are_refused_by_name(ai: Any) -> None:
    for asked, param in (
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", **WEATHER}], "parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"tools": [{"type": "function", **WEATHER, "deep": 1}]}, "tools[0].deep"),
        ({"tools": [{"type": "function", **WEATHER}], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.type"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            await ai.responses.create(model="demo", input="x", **asked)
        assert caught.value.param == param
