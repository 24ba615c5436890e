"""What the page is made of, by address: its files at `/`, and what it asks for at `/api`."""

from __future__ import annotations

from starlette.routing import Route

from sinkserve.web.page import about, builds, conversation, engines, sessions
from sinkserve.web.page.endpoint import api
from sinkserve.web.page.files import file_routes

_SESSION = "/api/sessions/{session}"
_TURN = _SESSION + "/turns/{turn}"


def routes() -> list[Route]:
    """Routes of the page at `/`, and of what it asks for at `/api`."""
    return [
        api("GET", "/api/about", about.about),
        api("GET", "/api/usage", about.usage),
        api("GET", "/api/sessions", sessions.list_sessions),
        api("POST", "/api/sessions", sessions.create),
        api("GET", _SESSION, sessions.get),
        api("DELETE", _SESSION, sessions.delete),
        api("POST", _SESSION + "/fork", sessions.fork),
        api("POST", _SESSION + "/rewind", sessions.rewind),
        api("GET", _SESSION + "/turns", sessions.turns),
        api("POST", _SESSION + "/turns", conversation.run_turn),
        api("GET", _TURN, sessions.turn),
        api("DELETE", _TURN, conversation.cancel_turn),
        api("PUT", _TURN + "/pin", sessions.pin),
        api("DELETE", _TURN + "/pin", sessions.unpin),
        api("GET", "/api/builds", builds.list_builds),
        api("GET", "/api/builds/{build}/events", builds.watch),
        api("DELETE", "/api/builds/{build}", builds.cancel),
        api("GET", "/api/engines", engines.list_engines),
        api("POST", "/api/engines/verify", engines.verify),
        api("PUT", "/api/engines/alias", engines.set_alias),
        api("DELETE", "/api/engines/alias", engines.delete_alias),
        api("GET", "/api/loaded", engines.list_loaded),
        api("PUT", "/api/loaded", engines.load),
        api("DELETE", "/api/loaded", engines.unload),
        *file_routes(),
    ]
