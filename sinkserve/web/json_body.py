"""The JSON in the body of a request."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request

from sinkserve.web.errors import WebError


async def json_of(request: Request) -> dict[str, Any]:
    """The object in the body. Raises WebError for what is none, what is too large, and another content type.

    The content type is asked for since browsers ask before they send it to a foreign site.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise WebError(415, f"Content-Type has to be application/json, not {kind or 'nothing'!r}")
    try:
        body = await _read(request, request.app.state.settings.max_body_bytes)
        value = json.loads(body)
        if b"\\ud" in body.lower():
            json.dumps(value, ensure_ascii=False).encode()  # half of a character could not go on to the services
    except (ValueError, RecursionError) as error:
        raise WebError(400, f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise WebError(400, "the body has to be a JSON object")
    return value


async def _read(request: Request, most: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise WebError(413, f"the body is larger than {most} bytes, which SINKSERVE_WEB_MAX_BODY_BYTES allows")
    return bytes(body)
