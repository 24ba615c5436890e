"""Where a turn goes: a new session, the one that has heard what was said before, or a fork of it.

A turn's id is its number. So of two that want to be the same turn of a session one is refused, which then forks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from sinkserve.client import Client, NotFound, SessionOptions
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from sinkserve.web.errors import WebError
from sinkserve.web.openai.history import Known, beginnings, first_labels, turn_of
from sinkserve.web.openai.ids import TurnName
from sinkserve.web.openai.prompt import Attempt, Message, Prompt

_BEGINNINGS, _CANDIDATES = 8, 50
"""How many beginnings of a history are looked for, and how many of the sessions that have one are looked at."""
DAY_S = 86_400


@dataclass(frozen=True)
class Place:
    """`turn` is to be, with `messages` as its input."""

    turn: TurnName
    messages: tuple[Message, ...]
    labels: Mapping[str, str] = field(default_factory=dict)
    """Of the session, so far."""
    engine: str = ""
    """What to make the session with, with `options`; empty: there is one."""
    options: SessionOptions = field(default_factory=SessionOptions)
    forks: bool = True
    """Whether the turn goes to a fork where the session has another one of its number."""
    is_kept: bool = True
    """False: the session is deleted after the turn."""
    is_repeated: bool = False
    """The turn has answered the request's Idempotency-Key before, and answers no other request."""
    otherwise: Place | None = None
    """Where the turn goes, before it forks, if the session has another one of its number."""

    @property
    def session(self) -> str:
        """Resource name."""
        return f"sessions/{self.turn.session}"


def new_place(prompt: Prompt, name: str, engine: str, keep_days: float) -> Place:
    """A new session called `name`, with `engine` where the request names none. Raises WebError for none at all."""
    if not (engine := prompt.model or engine):
        raise WebError(400, "model is missing: an engine reference, as /v1/models lists them", param="model")
    labels = first_labels(prompt.metadata, prompt.instructions, prompt.tools)
    options = SessionOptions(system_prompt=prompt.system, labels=labels, tools=prompt.tools)
    if keep_days:
        options["delete_after_idle_s"] = keep_days * DAY_S
    if not prompt.is_kept:
        options["durability"] = "none"
    return Place(TurnName(name, 1), prompt.messages, labels, engine, options, is_kept=prompt.is_kept)


async def heard_place(client: Client, prompt: Prompt, attempt: Attempt) -> Place | None:
    """Behind the longest beginning of `prompt.messages` that a session has heard; None: no session has."""
    for known in beginnings(prompt, prompt.messages)[:_BEGINNINGS]:
        if (found := await _session_with(client, known)) is not None:
            session, turn = found
            return await place_behind(client, session, turn, prompt.messages[known.messages :], attempt)
    return None


async def place_behind(
    client: Client, session: pb.Session, turn: TurnName, messages: tuple[Message, ...], attempt: Attempt
) -> Place:
    """Behind a turn of a session: in the session where it is the last, else in a fork."""
    place = Place(TurnName(turn.session, turn.number + 1), messages, dict(session.labels))
    if session.turns <= turn.number or (attempt.is_named and await _is_turn(client, session, place.turn)):
        return place
    return await forked(client, place, attempt)


async def forked(client: Client, place: Place, attempt: Attempt) -> Place:
    """The same in a fork of the session at the turn before. Raises WebError where the place is new for this attempt."""
    session, number = place.turn
    if session == attempt.name or place.is_repeated:
        raise WebError(409, "this Idempotency-Key was used for another request", "idempotency_key_reused")
    if not place.forks:
        raise WebError(
            409, "another response of this conversation is being made", "conversation_locked", "conversation"
        )
    fork = await client.sessions.fork(place.session, str(number - 1), session_id=attempt.name)
    return replace(place, turn=TurnName(attempt.name, number), labels=dict(fork.labels))


async def _session_with(client: Client, known: Known) -> tuple[pb.Session, TurnName] | None:
    """One whose last turn ended there, else one that went on otherwise."""
    other, looked_at = None, 0
    async for session in client.sessions.list(labels=known.label):
        name = session.name.partition("/")[2]
        number = turn_of(known, name, session.labels)
        if number is not None and session.turns >= number:
            found = session, TurnName(name, number)
            if session.turns == number:
                return found
            other = other or found
        if (looked_at := looked_at + 1) == _CANDIDATES:
            break
    return other


async def _is_turn(client: Client, session: pb.Session, turn: TurnName) -> bool:
    try:
        await client.sessions.turn(session.name, turn.turn_id)
    except NotFound:
        return False
    return True
