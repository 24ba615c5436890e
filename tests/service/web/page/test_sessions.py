from __future__ import annotations

import json
from typing import Any

import pytest

from tests.service.web.page.conftest import Page


async def test_a_session_has_the_options_that_were_chosen(page: Page) -> None:
    chosen = {"window_tokens": 100, "sink_tokens": 2, "recall_tokens": 25, "on_full": "notify", "durability": "tokens"}
    made = await page.ask("POST", "/api/sessions", {"engine": "demo", "labels": {"title": "cats"}, **chosen})
    assert made["options"] == chosen
    assert made["labels"] == {"title": "cats"}


SCHEMA = {"type": "object", "properties": {"n": {"enum": [None, 1]}}}


@pytest.mark.parametrize(
    "tool",
    [
        {"name": "add", "description": "Adds.", "parameters": SCHEMA},
        {"type": "function", "name": "add", "description": "Adds.", "parameters": SCHEMA, "strict": True},
        {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": SCHEMA}},
    ],
)
async def test_a_session_begins_with_tools_however_they_are_written(page: Page, tool: dict[str, Any]) -> None:
    made = await page.ask("POST", "/api/sessions", {"engine": "demo", "tools": [tool]})
    assert made["tools"] == ["add"]
    (asked,) = page.runtime.sessions[made["name"]].tools
    assert (asked.description, json.loads(asked.parameters)) == ("Adds.", SCHEMA)


@pytest.mark.parametrize(
    ("tool", "field"),
    [
        ({}, "tools.0.name"),
        ("add", "tools.0"),
        ({"name": "add", "deep": 1}, "tools.0.deep"),
        ({"name": "add", "parameters": "x"}, "tools.0.parameters"),
        ({"type": "web_search"}, "tools.0.name"),
        ({"type": "function", "function": 7}, "tools.0"),
    ],
)
async def test_a_tool_that_is_wrong_is_named(page: Page, tool: object, field: str) -> None:
    told = await page.ask("POST", "/api/sessions", {"engine": "demo", "tools": [tool]})
    assert (told["status"], told["param"]) == (400, field)


async def test_the_last_sessions_are_listed_and_more_are_announced(page: Page) -> None:
    for name in "abc":
        await page.ask("POST", "/api/sessions", {"engine": "demo", "session_id": name})
    told = await page.ask("GET", "/api/sessions?limit=2")
    assert ([each["name"] for each in told["sessions"]], told["more"]) == (["sessions/a", "sessions/b"], True)
    assert (await page.ask("GET", "/api/sessions?limit=3"))["more"] is False


async def test_the_last_turns_are_read_and_earlier_ones_are_announced(page: Page) -> None:
    path = await page.session()
    for number in range(3):
        async for _ in page.events("POST", path + "/turns", {"turn_id": f"t{number}", "text": "hi"}):
            pass
    told = await page.ask("GET", path + "/turns?limit=2")
    assert ([turn["turn_id"] for turn in told["turns"]], told["earlier"]) == (["t1", "t2"], True)
    assert told["turns"][0]["input"] == [{"role": "user", "content": "hi"}]
    assert (told["turns"][0]["reply"], told["turns"][0]["reason"]) == ("hi ", "stop")


async def test_turns_are_pinned_and_let_go(page: Page) -> None:
    path = await page.session()
    assert (await page.ask("PUT", path + "/turns/t1/pin"))["pinned_turns"] == ["t1"]
    assert (await page.ask("DELETE", path + "/turns/t1/pin"))["pinned_turns"] == []


async def test_a_session_is_copied_and_taken_back_and_deleted(page: Page) -> None:
    path = await page.session()
    copy = await page.ask("POST", path + "/fork", {"turn_id": "t1"})
    assert "/api/" + copy["name"] != path
    assert "/api/" + (await page.ask("POST", path + "/rewind", {"turn_id": "t1"}))["name"] == path
    await page.ask("DELETE", path)
    assert (await page.ask("GET", path))["code"] == "session_not_found"


@pytest.mark.parametrize("limit", ["0", "1001", "x", "-1", "1" * 5000, "²"])
async def test_a_wrong_limit_is_refused(page: Page, limit: str) -> None:
    assert (await page.ask("GET", f"/api/sessions?limit={limit}"))["param"] == "limit"


@pytest.mark.parametrize("name", ["%0A", "a%20b", "%F0%9F%90%88", "a" * 65])
async def test_what_can_be_no_id_reaches_no_service(page: Page, name: str) -> None:
    error = await page.ask("GET", f"/api/sessions/{name}")
    assert (error["status"], error["code"]) == (404, "session_not_found")
