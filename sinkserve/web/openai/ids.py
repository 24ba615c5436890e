"""Ids of responses and conversations: they say which session and which of its turns, so that no door has to know them.

`resp_SESSION_N` is turn N of a session, counted from 1; `conv_SESSION` a session.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from sinkserve.web.errors import WebError

_SESSION = r"([a-z0-9-]{1,64})"
_RESPONSE = re.compile(rf"resp_{_SESSION}_([1-9][0-9]{{0,8}})")
_CONVERSATION = re.compile(rf"conv_{_SESSION}")


class TurnName(NamedTuple):
    """A turn that this interface asked for."""

    session: str
    """ID of sessions/ID."""
    number: int
    """From 1; its turn id is this in decimal, so that no two can be the same turn of a session."""

    @property
    def response(self) -> str:
        """As id of a response."""
        return f"resp_{self.session}_{self.number}"

    @property
    def turn_id(self) -> str:
        """As the runtime has it."""
        return str(self.number)


def read_response(value: str, param: str = "") -> TurnName:
    """The turn of an id. Raises WebError 404 for what is no id of ours: nobody has a response of that name."""
    if (found := _RESPONSE.fullmatch(value)) is None:
        raise WebError(404, f"there is no response {value[:100]!r}", "response_not_found", param)
    return TurnName(found[1], int(found[2]))


def conversation_id(session: str) -> str:
    """Of a session."""
    return f"conv_{session}"


def read_conversation(value: str, param: str = "") -> str:
    """The session of an id. Raises WebError 404."""
    if (found := _CONVERSATION.fullmatch(value)) is None:
        raise WebError(404, f"there is no conversation {value[:100]!r}", "conversation_not_found", param)
    return found[1]
