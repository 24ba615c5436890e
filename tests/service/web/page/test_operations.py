from __future__ import annotations

from typing import Any

import pytest

from sinkserve.engine.v1.engine_pb2 import ModelSpec
from tests.fakes.scripted_builder import STAGES
from tests.service.web.page.conftest import Page

ADMIN = [
    ("PUT", "/api/loaded", {"reference": "demo"}),
    ("DELETE", "/api/loaded", {"reference": "demo"}),
    ("PUT", "/api/engines/alias", {"reference": "demo@1", "alias": "stable"}),
    ("DELETE", "/api/engines/alias", {"name": "demo", "alias": "stable"}),
    ("DELETE", "/api/builds/b1", None),
]


async def build(page: Page, name: str = "demo") -> str:
    """The path of a build that was submitted."""
    return "/api/" + (await page.services.builds.submit(ModelSpec(name=name))).name


async def test_a_build_is_watched_to_its_end(page: Page) -> None:
    events = [event async for event in page.events("GET", await build(page) + "/events")]
    assert [name for name, _ in events] == ["build", *["progress", "log"] * len(STAGES), "build"]
    assert (events[1][1]["stage"], events[1][1]["remaining_s"]) == ("resolve", None)
    assert (events[-1][1]["state"], events[-1][1]["engine"]) == ("succeeded", "demo@1")


async def test_a_build_that_failed_says_why(page: Page) -> None:
    events = [event async for event in page.events("GET", await build(page, "broken") + "/events")]
    assert events[-1][1]["error"]["code"] == "config_unsupported"
    listed = await page.ask("GET", "/api/builds")
    assert [(each["state"], each["spec"]["name"]) for each in listed["builds"]] == [("failed", "broken")]


async def test_an_unknown_build_is_not_found(page: Page) -> None:
    assert (await page.ask("GET", "/api/builds/none/events"))["code"] == "build_not_found"


async def test_a_build_is_cancelled(page: Page) -> None:
    assert (await page.ask("DELETE", await build(page)))["state"] == "cancelled"


async def test_engines_are_listed_with_what_tells_them_apart(page: Page) -> None:
    await page.services.builds.wait((await build(page)).removeprefix("/api/"))
    told = await page.ask("GET", "/api/engines")
    assert [(each["reference"], each["size_bytes"]) for each in told["engines"]] == [("demo@1", 1234567)]
    assert await page.ask("POST", "/api/engines/verify", {"reference": "demo@1"}) == {"files": 2, "size_bytes": 1234567}
    alias = {"name": "demo", "alias": "stable", "version": 1}
    assert await page.ask("PUT", "/api/engines/alias", {"reference": "demo@1", "alias": "stable"}) == alias
    assert await page.ask("DELETE", "/api/engines/alias", {"name": "demo", "alias": "stable"}) == {}


async def test_engines_are_loaded_and_unloaded(page: Page) -> None:
    loaded = await page.ask("PUT", "/api/loaded", {"reference": "demo@1"})
    assert (loaded["slots"], loaded["golden_margin"]) == (4, None)
    assert [each["reference"] for each in (await page.ask("GET", "/api/loaded"))["engines"]] == ["demo@1"]
    assert await page.ask("DELETE", "/api/loaded", {"reference": "demo@1"}) == {}
    assert (await page.ask("DELETE", "/api/loaded", {"reference": "demo@1"}))["code"] == "engine_not_loaded"


async def test_usage_has_the_newest_day_first(page: Page) -> None:
    days = [each["day"] for each in (await page.ask("GET", "/api/usage"))["usage"]]
    assert days == sorted(days, reverse=True)


class TestElsewhere:
    """Behind a web that offers no administration."""

    @pytest.fixture
    def settings(self) -> dict[str, Any]:
        return {"admin": "refuse", "anonymous": "refuse"}

    async def test_nobody_is_an_admin(self, page: Page) -> None:
        assert await page.ask("GET", "/api/about") == {"key_needed": True, "admin": False}
        for method, path, body in ADMIN:
            error = await page.ask(method, path, body, authorization="Bearer key")
            assert (error["status"], error["code"]) == (403, "admin_not_offered"), path

    async def test_who_has_no_key_needs_one(self, page: Page) -> None:
        assert (await page.ask("GET", "/api/sessions"))["status"] == 401

    async def test_a_key_goes_on_to_the_services(self, page: Page) -> None:
        made = await page.ask("POST", "/api/sessions", {"engine": "demo"}, authorization="Bearer sesame")
        turn = {"turn_id": "t1", "text": "hi"}
        headers = {"authorization": "Bearer sesame"}
        answer = await page.http.post(f"/api/{made['name']}/turns", json=turn, headers=headers)
        assert "event: finished" in answer.text
        assert page.runtime.metadata[-1]["authorization"] == "Bearer sesame"


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_other_sites_are_refused_whatever_they_ask(page: Page, site: str) -> None:
    for method, path, body in [("GET", "/api/about", None), ("GET", "/api/sessions", None), *ADMIN]:
        error = await page.ask(method, path, body, **{"sec-fetch-site": site})
        assert (error["status"], error["code"]) == (403, "foreign_site"), path


async def test_answers_are_kept_by_nobody(page: Page) -> None:
    answer = await page.http.get("/api/sessions")
    assert answer.headers["cache-control"] == "no-store"
