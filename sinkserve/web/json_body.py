"""The JSON in the body of a request."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.requests import ClientDisconnect, Request

from sinkserve.web.errors import WebError

BODY_S = 60.0
"""Within which a body has to have come, so that nobody holds a connection open by sending little."""


async def json_of(request: Request) -> dict[str, Any]:
    """The object in the body. Raises WebError for what is none, what is too large, and another content type.

    The content type is asked for since browsers ask before they send it to a foreign site.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise WebError(415, f"Content-Type has to be application/json, not {kind or 'nothing'!r}")
    try:
        body = await _in_time(request)
        value = json.loads(body)
        if b"\\ud" in body.lower():
            json.dumps(value, ensure_ascii=False).encode()  # half of a character could not go on to the services
    except (ValueError, RecursionError) as error:
        raise WebError(400, f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise WebError(400, "the body has to be a JSON object")
    return value


async def _in_time(request: Request) -> bytes:
    most = request.app.state.settings.max_body_bytes
    try:
        _check_size(int(request.headers.get("content-length", 0)), most)
        return await asyncio.wait_for(_read(request, most), BODY_S)
    except TimeoutError:
        raise WebError(408, f"the body has not come within {BODY_S:g} seconds", "body_too_slow") from None
    except ClientDisconnect:
        raise WebError(499, "the client left before its body had come", "cancelled") from None  # nobody hears it


async def _read(request: Request, most: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        _check_size(len(body), most)
    return bytes(body)


def _check_size(size: int, most: int) -> None:
    if size > most:
        raise WebError(413, f"the body is larger than {most} bytes, which SINKSERVE_WEB_MAX_BODY_BYTES allows")
