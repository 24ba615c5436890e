"""Connections whose request does not come, or is none."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator

import pytest
import uvicorn

from sinkserve.client.settings import ClientSettings
from sinkserve.web import json_body
from sinkserve.web.app import make_app
from sinkserve.web.protocol import DoorProtocol
from sinkserve.web.settings import WebSettings

NOBODY = ClientSettings(runtime="127.0.0.1:1", builder="127.0.0.1:1")


@pytest.fixture
async def port() -> AsyncIterator[int]:
    config = uvicorn.Config(make_app(WebSettings(), NOBODY), http=DoorProtocol, log_config=None, access_log=False)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        yield listening.getsockname()[1]
        server.should_exit = True
        await serving


def code_of(answer: bytes) -> str:
    code: str = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"]
    return code


async def answers(port: int, *sent: bytes) -> bytes:
    """All that comes until the server hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in sent:
        writer.write(piece)
        await writer.drain()
    heard = await reader.read()
    writer.close()
    return heard


@pytest.mark.parametrize("sent", [(), (b"GET /livez HTTP/1.1\r\nHost: local",)])
async def test_a_head_that_does_not_come_is_not_waited_for(
    port: int, sent: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DoorProtocol, "head_s", 0.01)
    heard = await answers(port, *sent)
    assert code_of(heard) == "head_too_slow"


async def test_a_second_head_is_not_waited_for_either(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await reader.readuntil(b"alive\n")).startswith(b"HTTP/1.1 200")
    monkeypatch.setattr(DoorProtocol, "head_s", 0.01)
    writer.write(b"GET /li")
    heard = await reader.read()
    assert heard.startswith(b"HTTP/1.1 408")
    assert code_of(heard) == "head_too_slow"
    writer.close()


async def test_who_has_sent_a_head_is_not_hurried(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DoorProtocol, "head_s", 0.01)
    monkeypatch.setattr(json_body, "BODY_S", 0.2)
    head = b"POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n"
    heard = await answers(port, head + b"Connection: close\r\n\r\n{")
    assert code_of(heard) == "body_too_slow"


async def test_what_is_no_http_is_told_so_in_the_form_of_every_error(port: int) -> None:
    heard = await answers(port, b"\x16\x03\x01 hello\r\n\r\n")
    assert code_of(heard) == "invalid_http"
