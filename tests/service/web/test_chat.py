"""Chat completions: the client sends all that was said, and pays for what is new."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

from sinkserve.client import Client
from tests.service.runtime.runtime import Bench
from tests.service.web.door import ENDING, door_to, openai_at

SHORT: dict[str, Any] = {"model": "demo", "max_tokens": 6, "temperature": 0}
SYSTEM = {"role": "system", "content": "Be brief."}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


async def talk(ai: Any, history: list[Any], text: str) -> Any:
    """Say something more; the history has it and the reply then."""
    answer = await ai.chat.completions.create(messages=[*history, user(text)], **SHORT)
    history += [user(text), answer.choices[0].message.model_dump(exclude_none=True)]
    return answer


async def turns(sdk: Client) -> list[int]:
    """Of each session."""
    return sorted([session.turns async for session in sdk.sessions.list()])


async def test_a_history_that_is_known_is_not_fed_again(ai: Any, sdk: Client) -> None:
    history: list[Any] = [SYSTEM]
    fed = []
    for _ in range(20):
        answer = await talk(ai, history, "hello")
        assert answer.usage is not None
        fed.append(answer.usage.prompt_tokens)
    assert len(set(fed[1:])) == 1, "each of them the same words, and no more"
    assert await turns(sdk) == [20]


async def test_its_session_has_a_title_for_people(ai: Any, sdk: Client) -> None:
    history: list[Any] = [SYSTEM]
    for text in ("are there cats?", "and dogs?"):
        await talk(ai, history, text)
    assert [session.labels["openai.title"] async for session in sdk.sessions.list()] == ["are there cats?"]


async def test_an_earlier_word_begins_another_branch(ai: Any, sdk: Client) -> None:
    history: list[Any] = []
    for text in ("one", "two", "three"):
        await talk(ai, history, text)
    other = history[:2]
    await talk(ai, other, "2")
    await talk(ai, other, "3")
    await talk(ai, history, "four")
    assert await turns(sdk) == [3, 4]


async def test_a_history_that_nobody_knows_is_fed_whole(ai: Any, sdk: Client) -> None:
    history = [SYSTEM, user("hello"), {"role": "assistant", "content": "who are you?"}]
    await talk(ai, history, "a stranger")
    await talk(ai, history, "and you?")
    (session,) = [session async for session in sdk.sessions.list()]
    fed = [[each.content for each in turn.messages.messages] async for turn in sdk.sessions.turns(session.name)]
    assert fed == [["hello", "who are you?", "a stranger"], ["and you?"]]


async def test_another_door_knows_it_too(bench: Bench, ai: Any, sdk: Client) -> None:
    history: list[Any] = []
    await talk(ai, history, "one")
    async with door_to(bench.handle.address) as url, openai_at(url) as other:
        await talk(other, history, "two")
    assert await turns(sdk) == [2]


async def test_many_at_once_with_the_same_history_never_mix(ai: Any, sdk: Client) -> None:
    history: list[Any] = []
    await talk(ai, history, "one")
    texts = [f"branch {number}" for number in range(4)]
    branches = [list(history) for _ in texts]
    await asyncio.gather(*(talk(ai, branch, text) for branch, text in zip(branches, texts, strict=True)))
    heard = [
        [turn.messages.messages[-1].content async for turn in sdk.sessions.turns(session.name)]
        async for session in sdk.sessions.list()
    ]
    assert sorted(heard) == [["one", text] for text in texts]


async def test_a_stream_has_its_usage_and_the_helper_its_text(ai: Any) -> None:
    asked = {**SHORT, "messages": [user(ENDING)], "stream_options": {"include_usage": True}, "max_tokens": 400}
    async with ai.chat.completions.stream(**asked) as stream:
        deltas = [event.delta async for event in stream if event.type == "content.delta"]
        whole = await stream.get_final_completion()
    assert "".join(deltas) == whole.choices[0].message.content
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage is not None
    assert 6 < whole.usage.completion_tokens < 400


async def test_log_probabilities_have_the_bytes_of_the_reply(ai: Any) -> None:
    answer = await ai.chat.completions.create(messages=[user("hello")], logprobs=True, top_logprobs=2, **SHORT)
    (choice,) = answer.choices
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert [len(each.top_logprobs) for each in choice.logprobs.content] == [2] * 6
    told = b"".join(bytes(each.bytes or ()) for each in choice.logprobs.content)
    assert told.decode(errors="replace") == choice.message.content


async def test_an_engine_that_nobody_has_is_no_model(ai: Any, sdk: Client) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await ai.chat.completions.create(messages=[user("hello")], **{**SHORT, "model": "nope"})
    assert (caught.value.param, caught.value.code) == ("model", "engine_not_found")
    assert {model.id async for model in ai.models.list()} == {"demo", "demo@1"}
    assert (await ai.models.retrieve("demo")).id == "demo"
    with pytest.raises(openai.NotFoundError):
        await ai.models.retrieve("nope")
    assert await turns(sdk) == []


class Cat(BaseModel):
    name: Literal["Miso", "Luna"]
    age: Literal[1, 2, 3]


async def test_a_reply_is_json_by_the_clients_own_schema(ai: Any) -> None:
    asked = {**SHORT, "max_tokens": 200, "messages": [user("my cat")]}
    chat = await ai.chat.completions.parse(response_format=Cat, **asked)
    response = await ai.responses.parse(model="demo", input="my cat", text_format=Cat, temperature=0)
    assert isinstance(chat.choices[0].message.parsed, Cat)
    assert isinstance(response.output_parsed, Cat)
    with pytest.raises(openai.BadRequestError) as caught:
        bad = {"name": "Bad", "schema": {"type": "object", "properties": {"x": {"type": "nothing"}}}}
        await ai.chat.completions.create(response_format={"type": "json_schema", "json_schema": bad}, **asked)
    assert str(caught.value.param).startswith("response_format")
