from __future__ import annotations

import asyncio
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from tests.service.web.page.conftest import Page

TURN = {"turn_id": "t1", "text": "one two three"}


async def told(page: Page, path: str, body: object) -> list[tuple[str, Any]]:
    return [event async for event in page.events("POST", path, body)]


def text_of(events: list[tuple[str, Any]]) -> str:
    return "".join(said.get("text", "") for name, said in events if name == "delta")


async def test_a_turn_streams_from_its_start_to_the_session_behind_it(page: Page) -> None:
    events = await told(page, await page.session() + "/turns", TURN)
    assert [name for name, _ in events] == ["opened", "started", "delta", "delta", "delta", "finished", "session"]
    assert text_of(events) == "one two three "
    finished, session = events[-2][1], events[-1][1]
    assert (finished["reason"], finished["usage"]["position"], session["position"]) == ("stop", 6, 6)


async def test_a_browser_that_comes_back_follows_the_same_turn_and_runs_it_once(page: Page) -> None:
    path, go = await page.session() + "/turns", asyncio.Event()
    page.runtime.pace = go.wait
    async for name, _ in page.events("POST", path, TURN):
        if name == "started":
            break  # the browser leaves in the middle
    go.set()
    events = await told(page, path, TURN)
    assert text_of(events) == "one two three "
    assert [session.runs for session in page.runtime.sessions.values()] == [1]


async def test_a_turn_that_is_stopped_keeps_what_was_said(page: Page) -> None:
    path = await page.session() + "/turns"
    session = next(iter(page.runtime.sessions.values()))
    said = asyncio.Event()

    async def pace() -> None:
        if session.records[0].reply:
            said.set()
            await session.until_cancelled()

    page.runtime.pace = pace
    following = asyncio.create_task(told(page, path, TURN))
    await said.wait()
    await page.ask("DELETE", path + "/t1")
    events = await following
    assert (text_of(events), events[-2][1]["reason"]) == ("one ", "cancelled")


async def test_a_turn_that_fails_says_why(page: Page) -> None:
    events = dict(await told(page, await page.session() + "/turns", {"turn_id": "t1", "text": "explode"}))
    assert events["finished"]["reason"] == "error"
    assert events["finished"]["error"]["code"] == "non_finite_logits"


async def test_a_turn_that_is_not_accepted_ends_with_its_error(page: Page) -> None:
    events = await told(page, await page.session() + "/turns", {**TURN, "temperature": 11})
    assert [name for name, _ in events] == ["opened", "error"]
    assert events[-1][1]["param"] == "temperature"


@pytest.mark.parametrize(
    "form", [{"json_schema": '{"const": null}'}, {"regex": "a"}, {"choice": ["a", "b"]}, {"grammar": "start: A"}]
)
async def test_the_form_of_a_reply_goes_on_as_it_is(page: Page, form: dict[str, object]) -> None:
    await told(page, await page.session() + "/turns", {**TURN, "response_format": form})
    (turn,) = next(iter(page.runtime.sessions.values())).turns.values()
    asked = MessageToDict(turn.generation.response_format, preserving_proto_field_name=True)
    assert asked == ({"choice": {"texts": form["choice"]}} if "choice" in form else form)


async def test_results_go_on_as_messages_and_a_choice_as_it_is(page: Page) -> None:
    result = {"role": "tool", "content": "21 degrees", "tool_call_id": "c1", "name": "weather"}
    body = {"turn_id": "t1", "messages": [result, {"role": "user", "content": "?"}], "tool_choice": "none"}
    path = await page.session()
    assert text_of(await told(page, path + "/turns", body)) == "21 degrees ? "
    (turn,) = next(iter(page.runtime.sessions.values())).turns.values()
    assert turn.generation.tool_choice.mode == pb.ToolChoice.MODE_NONE
    sent = MessageToDict(turn.messages.messages[0], preserving_proto_field_name=True)
    assert sent == result


async def test_who_is_taken_over_hears_of_it(page: Page) -> None:
    path, go = await page.session() + "/turns", asyncio.Event()
    page.runtime.pace = go.wait
    first = page.events("POST", path, TURN)
    assert [(await anext(first))[0], (await anext(first))[0]] == ["opened", "started"]
    second = page.events("POST", path, TURN)
    assert [(await anext(second))[0], (await anext(second))[0]] == ["opened", "started"]
    name, error = await anext(first)
    assert (name, error["code"]) == ("error", "session_taken_over")
    go.set()
    assert text_of([event async for event in second]) == "one two three "


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"text": "hi"}, "turn_id"),
        ({**TURN, "turn_id": ""}, "turn_id"),
        ({**TURN, "text": 7}, "text"),
        ({"turn_id": "t1"}, None),
        ({**TURN, "messages": []}, None),
        ({"turn_id": "t1", "messages": [{"role": "tool"}]}, "messages.0.content"),
        ({**TURN, "max_new_tokens": 2**40}, "max_new_tokens"),
        ({**TURN, "seed": -1}, "seed"),
        ({**TURN, "tempreature": 1}, "tempreature"),
        ({**TURN, "response_format": {}}, "response_format"),
        ({**TURN, "response_format": {"regex": "a", "grammar": "b"}}, "response_format"),
        ({**TURN, "response_format": {"choice": "a"}}, "response_format.choice"),
        ({**TURN, "response_format": {"yaml": "a"}}, "response_format.yaml"),
    ],
)
async def test_a_wrong_field_is_named_before_anything_is_opened(page: Page, body: object, field: str | None) -> None:
    path = await page.session() + "/turns"
    error = await page.ask("POST", path, body)
    assert (error["status"], error["param"]) == (400, field)
    assert not page.runtime.opens


async def test_an_unknown_session_is_not_found(page: Page) -> None:
    error = await page.ask("POST", "/api/sessions/none/turns", TURN)
    assert (error["status"], error["code"]) == (404, "session_not_found")
