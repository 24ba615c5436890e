"""What every request of the page's own API passes: it comes from the page itself, and names and bodies are checked."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sinkserve.web.errors import WebError
from sinkserve.web.json_body import json_of

Handler = Callable[[Request], Awaitable[Response]]
B = TypeVar("B", bound="Body")

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_MOST_LISTED = 1000
Int32 = Annotated[int, Field(ge=-(2**31), lt=2**31)]
"""What a field of the services can hold; which values are right, they say themselves."""


class Body(BaseModel):
    """What a request says. Fields that are not known are refused, so that a slip is seen."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def api(method: str, path: str, handler: Handler) -> Route:
    """A route of the API, which answers the page alone: no other site's, though a browser sends it here."""

    @wraps(handler)
    async def endpoint(request: Request) -> Response:
        came_from = request.headers.get("sec-fetch-site", "same-origin")
        if came_from not in {"same-origin", "none"}:
            raise WebError(403, f"this answers the page of its own site, and not a {came_from} one", "foreign_site")
        answer = await handler(request)
        answer.headers["cache-control"] = "no-store"
        answer.headers["x-content-type-options"] = "nosniff"
        return answer

    return Route(path, endpoint, methods=[method])


async def body_of(request: Request, form: type[B]) -> B:
    """The body as what `form` says. Raises WebError that names the field."""
    try:
        return form.model_validate(await json_of(request))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise WebError(400, f"{field}: {message}" if field else message, "invalid_field", field) from None


def id_of(request: Request, what: str) -> str:
    """The id in the request's path. Raises WebError for what can be none."""
    found: str = request.path_params[what]
    if not _ID.fullmatch(found):
        raise WebError(404, f"{found[:80]!r} is no id of a {what}", f"{what}_not_found")
    return found


def limit_of(request: Request, default: int) -> int:
    """How many of a list the page asks for. Raises WebError."""
    given = request.query_params.get("limit", str(default))
    if not (given.isascii() and given.isdecimal() and 1 <= int(given[:9]) <= _MOST_LISTED):
        raise WebError(400, f"limit: {given[:80]!r} is no number from 1 to {_MOST_LISTED}", "invalid_field", "limit")
    return int(given)
