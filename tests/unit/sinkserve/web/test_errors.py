"""Requests that are refused before any service is asked, and the form of errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
import structlog
from grpc import StatusCode
from starlette.requests import Request
from starlette.routing import Route

from sinkserve.client.errors import (
    Details,
    FieldViolation,
    InvalidArgument,
    ResourceExhausted,
    SinkServeError,
    Unavailable,
)
from sinkserve.client.settings import ClientSettings
from sinkserve.web import json_body
from sinkserve.web.app import make_app
from sinkserve.web.callers import Callers
from sinkserve.web.errors import WebError, error_body, error_response
from sinkserve.web.settings import WebSettings

NOBODY = ClientSettings(runtime="127.0.0.1:1", builder="127.0.0.1:1")
JSON = {"content-type": "application/json"}


@pytest.fixture
async def web() -> AsyncIterator[httpx2.AsyncClient]:
    """Answers without a socket."""
    app = make_app(WebSettings(max_body_bytes=1024), NOBODY)

    def fail(_: object) -> None:
        raise ZeroDivisionError

    app.router.routes.append(Route("/fault", fail))
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


@pytest.mark.parametrize(
    ("request_", "status", "message"),
    [
        ({"content": b"{}", "headers": {"content-type": "text/plain"}}, 415, "has to be application/json"),
        ({"content": b"{", "headers": JSON}, 400, "not JSON"),
        ({"content": b"[1]", "headers": JSON}, 400, "JSON object"),
        ({"content": b"[" * 1000, "headers": JSON}, 400, "not JSON"),
        ({"content": b'{"model": "\\uD800"}', "headers": JSON}, 400, "not JSON"),
        ({"content": b" " * 1025, "headers": JSON}, 413, "SINKSERVE_WEB_MAX_BODY_BYTES"),
        ({"json": {"n": 2}, "headers": {"authorization": "Basic x"}}, 401, "Bearer"),
    ],
)
async def test_a_request_that_cannot_be_read_is_told_why(
    web: httpx2.AsyncClient, request_: dict[str, Any], status: int, message: str
) -> None:
    answer = await web.post("/v1/responses", **request_)
    assert answer.status_code == status
    assert message in answer.json()["error"]["message"]


async def slowly(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        await asyncio.sleep(0)
        yield piece


async def test_a_body_that_does_not_say_its_size_is_read_to_the_limit(web: httpx2.AsyncClient) -> None:
    answer = await web.post("/v1/responses", content=slowly(*[b" " * 500] * 3), headers=JSON)
    assert answer.status_code == 413


async def test_a_body_that_does_not_come_is_not_waited_for(
    web: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_body, "BODY_S", 0)
    answer = await web.post("/v1/responses", content=slowly(b"{"), headers=JSON)
    assert (answer.status_code, answer.json()["error"]["code"]) == (408, "body_too_slow")


@pytest.mark.parametrize(("size", "status"), [("1", 499), ("1025", 413)])
async def test_a_client_that_leaves_is_no_fault_and_too_large_a_body_is_not_begun(size: str, status: int) -> None:
    async def leave() -> dict[str, str]:
        return {"type": "http.disconnect"}

    headers = [(b"content-type", b"application/json"), (b"content-length", size.encode())]
    app = make_app(WebSettings(max_body_bytes=1024), NOBODY)
    with pytest.raises(WebError) as caught:
        await json_body.json_of(Request({"type": "http", "headers": headers, "app": app}, leave))
    assert caught.value.status == status


async def test_a_foreign_name_in_host_is_refused(web: httpx2.AsyncClient) -> None:
    for host in ("pages.example.com", "["):
        answer = await web.get("/v1/models", headers={"host": host})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_host")
    assert (await web.get("/livez")).text == "alive\n"


async def test_a_fault_is_told_in_the_same_form_and_without_its_words(web: httpx2.AsyncClient) -> None:
    answer = await web.get("/fault")
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert "Zero" not in answer.text


async def test_a_runtime_that_is_away_is_told(web: httpx2.AsyncClient) -> None:
    assert (await web.get("/readyz")).status_code == 503
    answer = await web.get("/v1/models")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
    assert "127.0.0.1" not in answer.text


@pytest.mark.parametrize("code", [StatusCode.UNAVAILABLE, StatusCode.INTERNAL, StatusCode.UNKNOWN])
def test_what_a_connection_says_of_itself_is_for_the_log(code: StatusCode) -> None:
    with structlog.testing.capture_logs() as logged:
        body = error_body(SinkServeError(code, "ipv4:10.0.0.7:50071: Socket closed"))
    assert "10.0.0.7" not in str(body)
    assert "10.0.0.7" in logged[0]["error"]


@pytest.mark.parametrize(("anonymous", "listen"), [("refuse", "127.0.0.1:0"), ("", "0.0.0.0:0")])
async def test_a_key_is_asked_for_where_it_has_to_be(anonymous: str, listen: str) -> None:
    settings = WebSettings.load({"anonymous": anonymous, "listen": listen, "hosts": ("localhost",)})
    transport = httpx2.ASGITransport(make_app(settings, NOBODY))
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        answer = await client.get("/v1/models")
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert (await client.get("/v1/models", headers={"authorization": "Bearer mine"})).status_code == 503


def test_an_error_of_the_services_has_openais_form() -> None:
    details = Details("INVALID_FIELD", violations=(FieldViolation("turn.generation.top_p", "0 to 1"),))
    wrong = InvalidArgument(StatusCode.INVALID_ARGUMENT, "wrong", details)
    assert error_body(wrong) == {
        "message": "wrong; top_p: 0 to 1",
        "type": "invalid_request_error",
        "param": "top_p",
        "code": "invalid_field",
    }
    full = error_response(ResourceExhausted(StatusCode.RESOURCE_EXHAUSTED, "full", Details(retry_after_s=0.2)))
    assert (full.status_code, full.headers["retry-after"]) == (429, "1")
    assert error_body(Unavailable(StatusCode.UNAVAILABLE, "away"))["type"] == "server_error"


async def test_clients_are_kept_by_key_and_the_oldest_idle_ones_closed() -> None:
    class Connected:
        closed = False

        async def close(self) -> None:
            self.closed = True

    made: dict[str, Any] = {}
    callers = Callers(lambda key: made.setdefault(key, Connected()), 2)
    async with callers.client("a") as first, callers.client("a") as again:
        assert first is again
        for key in "bcdc":
            async with callers.client(key):
                pass
        assert [key for key, client in made.items() if client.closed] == ["b"], "a is in use"
    await callers.close()
    assert all(client.closed for client in made.values())
