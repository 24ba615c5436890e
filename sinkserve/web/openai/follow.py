"""Runs one turn for a request, and tells what comes of it, whatever happens on the way.

A replica that dies is the SDK's to get over. Here: another request that opens the same session in mid-turn, which loses
it again to this one, or goes elsewhere; and a client that leaves, whose turn is taken back unless it may ask again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Literal

from sinkserve.client import (
    Aborted,
    AlreadyExists,
    Client,
    Conversation,
    Finished,
    FinishReason,
    GenerationOptions,
    SinkServeError,
    Turn,
)
from sinkserve.client import Message as WireMessage
from sinkserve.web.errors import WebError
from sinkserve.web.openai.place import Place, forked
from sinkserve.web.openai.prompt import Attempt, Message, Prompt
from sinkserve.web.openai.relay import Piece, Relay

Leave = Literal["end", "continue", "discard", "delete"]

_TAKE_OVERS = 40
_AWAY_S = 0.25
_leaving: set[asyncio.Task[None]] = set()


@dataclass(frozen=True)
class Started:
    """The turn runs, or has run before."""

    place: Place
    engine: str
    """NAME@VERSION."""


@dataclass(frozen=True)
class Ended:
    """The turn has ended, with this reply."""

    finished: Finished
    text: str
    reasoning: str = ""


Event = Started | Piece | Ended


async def follow(client: Client, place: Place, prompt: Prompt, attempt: Attempt) -> AsyncGenerator[Event, None]:
    """`Started`, pieces, `Ended`. Raises SinkServeError, WebError."""
    relay, started = Relay(), False
    for _ in range(_TAKE_OVERS):
        try:
            async with aclosing(_once(client, place, prompt, attempt, relay)) as events:
                async for event in events:
                    if not (started and isinstance(event, Started)):
                        yield event
                    started = True
        except AlreadyExists as error:
            if error.reason != "TURN_ID_REUSED" or started:
                raise
            place = place.otherwise or await forked(client, place, attempt)
        except Aborted as error:
            if error.reason != "SESSION_TAKEN_OVER":
                raise
            await asyncio.sleep(_AWAY_S * random.random())  # noqa: S311 - spreads rivals, hides nothing
            relay.restart()
        else:
            return
    raise WebError(409, "other clients keep opening this session", "session_taken_over")


async def _once(
    client: Client, place: Place, prompt: Prompt, attempt: Attempt, relay: Relay
) -> AsyncGenerator[Event, None]:
    """As `follow`, over one conversation."""
    conversation = _conversation(client, place)
    await conversation.open()
    leave = _if_abandoned(place, attempt)
    try:
        turn = await _send(conversation, place, prompt, attempt)
        await turn.wait_started()
        yield Started(place, conversation.session.engine)
        async for delta in turn:
            if (piece := relay.take(delta)) is not None:
                yield piece
        leave = "end" if place.is_kept else "delete"
        yield Ended(_judged(turn.finished), turn.text, turn.reasoning)
    except (Aborted, AlreadyExists, WebError):  # what the session has is not for this request to take away
        leave = "continue"
        raise
    finally:
        await to_the_end(_leave(client, place, conversation, leave))


def _if_abandoned(place: Place, attempt: Attempt) -> Leave:
    if attempt.is_named:
        return "continue"
    return "delete" if place.engine or not place.is_kept else "discard"


async def _leave(client: Client, place: Place, conversation: Conversation, leave: Leave) -> None:
    if leave == "end":
        await conversation.close()
        return
    await conversation.leave("continue" if leave == "continue" else "discard")
    if leave == "delete":
        with suppress(SinkServeError):
            await client.sessions.delete(place.session)


def _conversation(client: Client, place: Place) -> Conversation:
    if place.engine:
        return client.conversation(place.engine, session_id=place.turn.session, **place.options)
    return client.conversation(session=place.session)


async def _send(conversation: Conversation, place: Place, prompt: Prompt, attempt: Attempt) -> Turn:
    generation: GenerationOptions = {"seed": attempt.seed, **prompt.generation}
    return await conversation.send(
        messages=[_on_the_wire(each) for each in place.messages],
        turn_id=place.turn.turn_id,
        allow_eviction_within_turn=True,
        **generation,
    )


async def to_the_end(work: Coroutine[None, None, None]) -> None:
    """Do it, also where who waits for it is cancelled."""
    task = asyncio.create_task(work)
    _leaving.add(task)
    task.add_done_callback(_leaving.discard)
    await asyncio.shield(task)


def _on_the_wire(message: Message) -> WireMessage:
    return {
        "role": message.role,
        "content": message.content,
        "tool_calls": message.calls,
        "tool_call_id": message.call_id,
        "name": message.name,
    }


def _judged(finished: Finished) -> Finished:
    """Raises WebError for a turn that somebody else cancelled."""
    if finished.reason is FinishReason.CANCELLED:
        raise WebError(409, "the reply was cancelled", "cancelled")
    return finished
