"""What a client asks for on a stream, as plain data."""

from __future__ import annotations

from dataclasses import dataclass

from common.errors import InvalidArgument, Reason, SinkServeError
from runtime_service.domain.session import SESSION_ID, NewSession
from runtime_service.domain.turn import TurnRequest


@dataclass(frozen=True)
class Open:
    """Start on a new session, or on one that exists: sessions/ID."""

    target: NewSession | str
    after_sequence: int | None = None


@dataclass(frozen=True)
class Cancel:
    """Cancel a turn."""

    turn_id: str
    discard: bool = False


@dataclass(frozen=True)
class Close:
    """End the stream after the accepted turns."""

    delete_session: bool = False


@dataclass(frozen=True)
class Refused:
    """A turn that was not even read: it is too long."""

    turn_id: str
    error: SinkServeError


Request = Open | TurnRequest | Refused | Cancel | Close


def session_id_of(name: str, field: str) -> str:
    """ID of sessions/ID; raises InvalidArgument."""
    prefix, _, session_id = name.partition("/")
    if prefix != "sessions" or not SESSION_ID.fullmatch(session_id):
        what = f"{field} has to be sessions/ID; it is {name[:100]!r}"
        raise InvalidArgument(Reason.INVALID_FIELD, what, field=field)
    return session_id
