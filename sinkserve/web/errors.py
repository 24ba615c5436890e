"""Errors over HTTP: `{"error": {message, type, param, code}}`, as OpenAI's clients read them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import structlog
from grpc import StatusCode
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from sinkserve.client import SinkServeError

log = structlog.get_logger()

_STATUSES: Mapping[StatusCode, int] = {
    StatusCode.INVALID_ARGUMENT: 400,
    StatusCode.OUT_OF_RANGE: 400,
    StatusCode.FAILED_PRECONDITION: 400,
    StatusCode.UNAUTHENTICATED: 401,
    StatusCode.PERMISSION_DENIED: 403,
    StatusCode.NOT_FOUND: 404,
    StatusCode.ALREADY_EXISTS: 409,
    StatusCode.ABORTED: 409,
    StatusCode.CANCELLED: 499,
    StatusCode.RESOURCE_EXHAUSTED: 429,
    StatusCode.UNAVAILABLE: 503,
    StatusCode.DEADLINE_EXCEEDED: 504,
}
_FIELDS: Mapping[str, str] = {
    "open.new_session.engine": "model",
    "open.new_session.system_prompt": "instructions",
    "open.new_session.labels": "metadata",
    "open.new_session.tools": "tools",
    "new_session.labels": "metadata",
    "new_session.engine": "model",
    "new_session.tools": "tools",
    "turn.generation.": "",
    "turn.messages.messages": "messages",
    "turn.messages": "messages",
}
"""Of requests of the services, as OpenAI calls them."""
_TYPES: Mapping[int, str] = {401: "authentication_error", 403: "permission_error", 404: "not_found_error"}


class WebError(Exception):
    """A request that is refused here: an HTTP status, a message, and which field it is about, if any."""

    def __init__(self, status: int, message: str, code: str = "", param: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param


def status_of(error: SinkServeError) -> int:
    """The HTTP status of an error of the services; 500 for what is their fault."""
    return _STATUSES.get(error.code, 500)


def error_body(error: SinkServeError | WebError) -> dict[str, Any]:
    """What `{"error": ...}` holds."""
    if isinstance(error, WebError):
        return _body(error.status, str(error), error.param, error.code)
    if not error.reason and status_of(error) >= 500:  # of the connection: it says where the services are
        log.warning("services.failed", status=error.code.name, error=error.message)
        return _body(status_of(error), "the services behind this address do not answer; try again", "", _code(error))
    told = [error.message]
    told += (f"{each.field}: {each.description}" for each in error.violations if each.description not in error.message)
    params = [each.field for each in error.violations]
    message = _renamed("; ".join(told))
    return _body(status_of(error), message, _renamed(params[0]) if params else "", error.reason.lower() or _code(error))


def _renamed(text: str) -> str:
    """With fields called as over HTTP, where they are not as on the wire."""
    for ours, theirs in _FIELDS.items():
        text = text.replace(ours, theirs)
    return text


def _code(error: SinkServeError) -> str:
    return error.code.name.lower()


def _body(status: int, message: str, param: str, code: str) -> dict[str, Any]:
    kind = "server_error" if status >= 500 else _TYPES.get(status, "invalid_request_error")
    kind = "rate_limit_error" if status == 429 else kind
    return {"message": message, "type": kind, "param": param or None, "code": code or None}


def error_response(error: SinkServeError | WebError) -> JSONResponse:
    """The answer to a request that failed."""
    status = error.status if isinstance(error, WebError) else status_of(error)
    wait = None if isinstance(error, WebError) else error.retry_after_s
    headers = {"retry-after": str(max(1, math.ceil(wait)))} if wait is not None else {}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse({"error": error_body(error)}, status, headers)


async def answer_error(_: Request, error: Exception) -> JSONResponse:
    """For the app: WebError, SinkServeError, and Starlette's own."""
    if isinstance(error, HTTPException):
        return error_response(WebError(error.status_code, error.detail))
    assert isinstance(error, SinkServeError | WebError)
    return error_response(error)


async def answer_fault(_: Request, error: Exception) -> JSONResponse:
    """For the app: whatever is its own fault. What it was is in the log."""
    del error
    return error_response(WebError(500, "this is a fault of the server; its log says more", "internal"))
