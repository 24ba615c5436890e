"""Responses: a conversation that the server holds, by OpenAI's own client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from sinkserve.client import Client
from tests.service.runtime.runtime import ENDLESS, Bench, eventually
from tests.service.web.door import ENDING, door_to, openai_at

SHORT: dict[str, Any] = {"model": "demo", "max_output_tokens": 6, "temperature": 0}
LONG: dict[str, Any] = {"model": "demo", "max_output_tokens": ENDLESS["max_new_tokens"]}


async def said(sdk: Client, response: str) -> list[str]:
    """What went into the session of a response, turn by turn."""
    session = f"sessions/{response.split('_')[1]}"
    return [turn.messages.messages[-1].content async for turn in sdk.sessions.turns(session)]


async def sessions(sdk: Client) -> list[str]:
    return [session.name async for session in sdk.sessions.list()]


async def test_a_conversation_goes_on_in_its_session(ai: Any, sdk: Client) -> None:
    first = await ai.responses.create(input="my cat is called Miso", instructions="Be brief.", **SHORT)
    second = await ai.responses.create(input="what is it called?", previous_response_id=first.id, **SHORT)
    assert await said(sdk, second.id) == ["my cat is called Miso", "what is it called?"]
    assert len(await sessions(sdk)) == 1
    assert second.status == "incomplete"
    assert second.incomplete_details is not None
    assert second.incomplete_details.reason == "max_output_tokens"
    assert second.usage is not None
    assert second.usage.output_tokens == 6
    kept = await ai.responses.retrieve(second.id)
    assert (kept.output_text, kept.status) == (second.output_text, "incomplete")
    items = await ai.responses.input_items.list(first.id)
    assert [item.content[0].text for item in items.data] == ["my cat is called Miso"]


async def test_from_an_older_response_another_branch_begins_and_both_hold(ai: Any, sdk: Client) -> None:
    first = await ai.responses.create(input="one", **SHORT)
    second = await ai.responses.create(input="two", previous_response_id=first.id, **SHORT)
    other = await ai.responses.create(input="three", previous_response_id=first.id, **SHORT)
    for last, before in ((second, ["one", "two"]), (other, ["one", "three"])):
        more = await ai.responses.create(input="more", previous_response_id=last.id, **SHORT)
        assert await said(sdk, more.id) == [*before, "more"]
    assert len(await sessions(sdk)) == 2


async def test_behind_a_response_that_never_was_nothing_goes_on(ai: Any, sdk: Client) -> None:
    first = await ai.responses.create(input="one", **SHORT)
    for never in (f"{first.id[:-1]}2", f"{first.id[:-1]}9", "resp_none_1", "nonsense"):
        with pytest.raises(openai.NotFoundError) as caught:
            await ai.responses.create(input="two", previous_response_id=never, **SHORT)
        assert caught.value.param == "previous_response_id"
    assert await said(sdk, first.id) == ["one"]


async def test_two_at_once_behind_the_same_response_never_mix(ai: Any, sdk: Client) -> None:
    first = await ai.responses.create(input="one", **SHORT)
    texts = [f"branch {number}" for number in range(4)]
    both = await asyncio.gather(
        *(ai.responses.create(input=text, previous_response_id=first.id, **SHORT) for text in texts)
    )
    assert [await said(sdk, each.id) for each in both] == [["one", text] for text in texts]
    assert len(await sessions(sdk)) == len(texts)


async def test_the_helper_for_streams_has_the_same_text(ai: Any) -> None:
    asked = {**SHORT, "input": ENDING, "max_output_tokens": 400}
    async with ai.responses.stream(**asked) as stream:
        events = [event async for event in stream]
        whole = await stream.get_final_response()
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-1] == "response.completed"
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    assert whole.output_text == (await ai.responses.create(**asked)).output_text


async def test_what_is_asked_for_twice_by_one_key_is_done_once(ai: Any, sdk: Client) -> None:
    before = None
    for number in range(3):
        named = {"Idempotency-Key": f"key {number}"}
        once, again = [
            await ai.responses.create(input="hello", previous_response_id=before, extra_headers=named, **SHORT)
            for _ in range(2)
        ]
        assert (once.id, once.output_text) == (again.id, again.output_text)
        before = once.id
    assert len(await said(sdk, again.id)) == 3
    assert len(await sessions(sdk)) == 1
    with pytest.raises(openai.ConflictError, match="was used for another request"):
        await ai.responses.create(input="other", extra_headers={"Idempotency-Key": "key 0"}, **SHORT)


@pytest.mark.parametrize("named", [True, False])
async def test_who_leaves_has_its_turn_taken_back_unless_it_may_ask_again(ai: Any, sdk: Client, named: bool) -> None:
    first = await ai.responses.create(input="hello", **SHORT)
    key = {"Idempotency-Key": "mine"} if named else {}
    stream = await ai.responses.create(
        input="on and on", previous_response_id=first.id, extra_headers=key, stream=True, **LONG
    )
    async for event in stream:
        if event.type == "response.output_text.delta":
            break
    await stream.close()
    session = f"sessions/{first.id.split('_')[1]}"
    if named:
        turn = await sdk.sessions.turn(session, "2")
        assert not turn.HasField("end_time")
        await sdk.sessions.cancel_turn(session, "2")
        return

    async def taken_back() -> bool:
        before, after = [await sdk.sessions.turn(session, turn_id) for turn_id in ("1", "2")]
        return after.HasField("end_time") and after.usage.position == before.usage.position

    await eventually(taken_back)


async def test_who_leaves_before_the_whole_answer_has_its_session_taken_back(ai: Any, sdk: Client) -> None:
    asking = asyncio.create_task(ai.responses.create(input="on and on", **LONG))

    async def begun() -> bool:
        return bool(await sessions(sdk))

    async def gone() -> bool:
        return not await sessions(sdk)

    await eventually(begun)
    asking.cancel()
    await eventually(gone)


async def test_what_is_not_to_be_stored_is_nowhere(ai: Any, sdk: Client) -> None:
    first = await ai.responses.create(input="hello", **SHORT)
    for before in (None, first.id):
        secret = await ai.responses.create(input="secret", store=False, previous_response_id=before, **SHORT)
        with pytest.raises(openai.NotFoundError):
            await ai.responses.retrieve(secret.id)
    assert await said(sdk, first.id) == ["hello"]
    assert len(await sessions(sdk)) == 1


async def test_any_door_goes_on_with_what_another_began(bench: Bench, ai: Any, sdk: Client) -> None:
    first = await ai.responses.create(input="one", **SHORT)
    async with door_to(bench.handle.address) as url, openai_at(url) as other:
        second = await other.responses.create(input="two", previous_response_id=first.id, **SHORT)
    assert await said(sdk, second.id) == ["one", "two"]


async def test_the_last_response_is_deleted_and_others_are_not(ai: Any, sdk: Client) -> None:
    first = await ai.responses.create(input="one", **SHORT)
    second = await ai.responses.create(input="two", previous_response_id=first.id, **SHORT)
    with pytest.raises(openai.ConflictError, match="not the last"):
        await ai.responses.delete(first.id)
    for response in (second, first):
        await ai.responses.delete(response.id)
        with pytest.raises(openai.NotFoundError):
            await ai.responses.retrieve(response.id)
    assert await sessions(sdk) == []


async def test_a_conversation_takes_its_instructions_from_its_first_response(ai: Any, sdk: Client) -> None:
    conversation = await ai.conversations.create(metadata={"topic": "cats"})
    asked = {"conversation": conversation.id, "instructions": "Be brief.", **SHORT}
    for text in ("one", "two"):
        response, again = [
            await ai.responses.create(input=text, extra_headers={"Idempotency-Key": text}, **asked) for _ in range(2)
        ]
        assert (response.id, response.output_text) == (again.id, again.output_text)
    assert await said(sdk, response.id) == ["one", "two"]
    assert [session.labels["openai.title"] async for session in sdk.sessions.list()] == ["one"]
    assert (await ai.conversations.retrieve(conversation.id)).metadata == {"topic": "cats"}
    changed = await ai.conversations.update(conversation.id, metadata={"topic": "dogs"})
    assert changed.metadata == {"topic": "dogs"}
    with pytest.raises(openai.BadRequestError, match="other instructions"):
        await ai.responses.create(input="three", **{**asked, "instructions": "Be long."})
    with pytest.raises(openai.BadRequestError, match="stays with it"):
        await ai.responses.create(input="three", **{**asked, "model": "other"})
    await ai.conversations.delete(conversation.id)
    with pytest.raises(openai.NotFoundError):
        await ai.responses.create(input="three", **asked)


async def test_a_key_is_answered_as_the_first_time_after_a_later_turn(ai: Any, sdk: Client) -> None:
    asked = {"conversation": (await ai.conversations.create()).id, **SHORT}
    key = {"Idempotency-Key": "mine"}
    await ai.responses.create(input="zero", **asked)
    once = await ai.responses.create(input="one", extra_headers=key, **asked)
    for text in ("two", "three"):
        last = await ai.responses.create(input=text, **asked)
    again = await ai.responses.create(input="one", extra_headers=key, **asked)
    assert (once.id, once.output_text) == (again.id, again.output_text)
    with pytest.raises(openai.ConflictError) as caught:
        await ai.responses.create(input="other", extra_headers=key, **asked)
    assert caught.value.code == "idempotency_key_reused"
    assert await said(sdk, last.id) == ["zero", "one", "two", "three"]


async def test_two_at_once_in_a_conversation_are_told_to_wait(ai: Any, sdk: Client) -> None:
    conversation = await ai.conversations.create()
    stream = await ai.responses.create(input="long", conversation=conversation.id, stream=True, **LONG)
    async for event in stream:
        if event.type == "response.output_text.delta":
            break
    with pytest.raises(openai.ConflictError) as caught:
        await ai.responses.create(input="short", conversation=conversation.id, **SHORT)
    assert caught.value.code == "conversation_locked"
    before = len([event async for event in _some(stream)])
    assert before == 3, "the first goes on"
    await stream.close()


async def _some(stream: Any) -> AsyncIterator[object]:
    for _ in range(3):
        yield await anext(aiter(stream))
