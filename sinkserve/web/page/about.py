"""What the page may offer, and what was used."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from sinkserve.web.callers import client_of
from sinkserve.web.errors import WebError
from sinkserve.web.page.endpoint import limit_of
from sinkserve.web.page.listing import first
from sinkserve.web.page.operations_views import usage_view
from sinkserve.web.settings import WebSettings

_USAGE_DAYS = 30


async def about(request: Request) -> Response:
    """Whether a key is needed before anything else, and whether administration is offered. Needs no key."""
    settings: WebSettings = request.app.state.settings
    return JSONResponse({"key_needed": not settings.takes_anonymous, "admin": settings.offers_admin})


async def usage(request: Request) -> Response:
    """What was used in the last days, the newest day first; one's own, or everybody's for an admin."""
    since = (datetime.now(UTC) - timedelta(days=_USAGE_DAYS - 1)).date().isoformat()
    used, more = await first(client_of(request).sessions.usage(from_day=since), limit_of(request, 1000))
    used.sort(key=lambda each: each.day, reverse=True)
    return JSONResponse({"usage": [usage_view(each) for each in used], "more": more})


def check_admin(request: Request) -> None:
    """Raises WebError where the page offers no administration; whether this caller may, the services say."""
    settings: WebSettings = request.app.state.settings
    if not settings.offers_admin:
        raise WebError(403, "this page offers no administration: SINKSERVE_WEB_ADMIN=allow does", "admin_not_offered")
