"""Where a response goes that names what it goes on with: behind another response, or at the end of a conversation."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from sinkserve.client import Client, NotFound
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from sinkserve.web.errors import WebError
from sinkserve.web.openai.follow import Event, Started, follow
from sinkserve.web.openai.history import (
    check_instructions,
    goes_without_tools,
    metadata_of,
    title_label,
    turn_of_attempt,
    with_attempt,
    with_metadata,
)
from sinkserve.web.openai.ids import TurnName, read_conversation, read_response
from sinkserve.web.openai.place import Place, forked, new_place, place_behind
from sinkserve.web.openai.prompt import Attempt, Message, Prompt
from sinkserve.web.openai.responses.request import ResponseRequest
from sinkserve.web.openai.told import told
from sinkserve.web.settings import WebSettings


async def events_of(
    client: Client, asked: ResponseRequest, attempt: Attempt, settings: WebSettings
) -> AsyncGenerator[Event, None]:
    """As `follow`. Raises WebError for what it cannot go on with."""
    prompt, conversation = asked.prompt, asked.conversation_id
    if conversation is not None:
        place = await _in_conversation(client, conversation, prompt, attempt, settings)
        if attempt.is_named:
            return _noted(client, place, prompt, attempt)
    elif asked.previous_response_id is not None:
        place = await _behind_response(client, asked.previous_response_id, prompt, attempt)
    elif prompt.is_kept:
        return told(client, prompt, attempt, settings)
    else:
        place = new_place(prompt, attempt.name, settings.engine, settings.keep_days)
    return follow(client, place, prompt, attempt)


async def _noted(client: Client, place: Place, prompt: Prompt, attempt: Attempt) -> AsyncGenerator[Event, None]:
    """As `follow`; once the turn has begun, its session knows which attempt it answers, whatever comes behind it."""
    async with aclosing(follow(client, place, prompt, attempt)) as events:
        async for event in events:
            if isinstance(event, Started) and not event.place.is_repeated:
                turn = event.place.turn
                labels = dict((await client.sessions.get(event.place.session)).labels)
                if turn_of_attempt(labels, attempt.name) != turn.number:
                    labels = with_attempt(labels, turn.number, attempt.name)
                    await client.sessions.update(event.place.session, labels=labels)
            yield event


async def _behind_response(client: Client, named: str, prompt: Prompt, attempt: Attempt) -> Place:
    """What is not to be kept goes to a fork, which is deleted."""
    turn = read_response(named, "previous_response_id")
    session = await session_of(client, turn.session, named, "previous_response_id")
    if turn.number > session.turns:  # it is being made, or was never asked for
        await record_of(client, turn, "previous_response_id")
    _check(session, prompt)
    messages = await _named(client, turn, prompt.messages)
    place = await place_behind(client, session, turn, messages, attempt)
    if not prompt.is_kept and place.turn.session == turn.session:
        place = await forked(client, place, attempt)
    place = replace(place, is_kept=prompt.is_kept)
    return place if not prompt.is_kept else await _with_metadata(client, place, prompt)


async def _in_conversation(
    client: Client, named: str, prompt: Prompt, attempt: Attempt, settings: WebSettings
) -> Place:
    """Raises WebError where the response is not to be kept, which the conversation is."""
    if not prompt.is_kept:
        raise WebError(400, "store: a response of a conversation is kept with it", "invalid_value", "store")
    session = await session_of(client, read_conversation(named, "conversation"), named, "conversation")
    name = session.name.partition("/")[2]
    if not session.turns:
        session = await _begun(client, session, prompt, settings)
    _check(session, prompt)
    if attempt.is_named and (number := turn_of_attempt(session.labels, attempt.name)) is not None:
        messages = await _named(client, TurnName(name, number - 1), prompt.messages)
        return Place(TurnName(name, number), messages, dict(session.labels), forks=False, is_repeated=True)
    last = TurnName(name, session.turns)
    messages = await _named(client, last, prompt.messages)
    place = Place(TurnName(name, session.turns + 1), messages, dict(session.labels), forks=False)
    place = await _with_metadata(client, place, prompt)
    if attempt.is_named and session.turns:  # the last turn may be this very request's
        messages = await _named(client, TurnName(name, session.turns - 1), prompt.messages)
        return replace(place, turn=last, messages=messages, otherwise=place)
    return place


async def _begun(client: Client, session: pb.Session, prompt: Prompt, settings: WebSettings) -> pb.Session:
    """A conversation that nothing was said in yet, with the engine and the instructions of its first response."""
    if _is_engine(session, prompt.model) and not (prompt.system or prompt.tools):
        return session
    name = session.name.partition("/")[2]
    await client.sessions.delete(session.name)
    place = new_place(replace(prompt, metadata=metadata_of(session.labels)), name, session.engine, settings.keep_days)
    return await client.sessions.create(place.engine, session_id=name, **place.options)


def _check(session: pb.Session, prompt: Prompt) -> None:
    """Raises WebError for another engine, other instructions, or words of the system in a conversation that goes on."""
    if not _is_engine(session, prompt.model):
        what = f"model: this conversation is with {session.engine}, and stays with it; it is {prompt.model!r}"
        raise WebError(400, what, "invalid_value", "model")
    check_instructions(session.labels, prompt.instructions)
    if goes_without_tools(session.labels, prompt.tools):
        prompt.generation["tool_choice"] = "none"
    if session.turns and prompt.system != (prompt.instructions or ""):
        what = "input: messages of the system can only begin a conversation"
        raise WebError(400, what, "unsupported_value", "input")


async def _named(client: Client, before: TurnName, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Results with the names of the tools that the turn before called."""
    if not before.number or all(each.name or not each.call_id for each in messages):
        return messages
    names = {call.id: call.name for call in (await record_of(client, before)).tool_calls}
    return tuple(each._replace(name=each.name or names.get(each.call_id, "")) for each in messages)


def _is_engine(session: pb.Session, model: str) -> bool:
    """Whether a reference names the engine of a session, or an alias of its name."""
    name, at, version = model.partition("@")
    if at:
        return model == session.engine or version == session.engine_digest
    return not model or name.partition(":")[0] == session.engine.partition("@")[0]


async def session_of(client: Client, session: str, named: str, param: str = "") -> pb.Session:
    """The session of an id. Raises WebError 404 that names the id as the client has it."""
    try:
        return await client.sessions.get(f"sessions/{session}")
    except NotFound:
        raise WebError(404, f"there is no {named}", "not_found", param) from None


async def record_of(client: Client, turn: TurnName, param: str = "") -> pb.TurnRecord:
    """The turn of a response. Raises WebError 404 where there is none."""
    try:
        return await client.sessions.turn(f"sessions/{turn.session}", turn.turn_id)
    except NotFound:
        raise WebError(404, f"there is no {turn.response}", "not_found", param) from None


async def _with_metadata(client: Client, place: Place, prompt: Prompt) -> Place:
    """Metadata is the conversation's: what the last request gave. Its title is of the first."""
    labels = with_metadata(place.labels, prompt.metadata) if prompt.metadata else place.labels
    if place.turn.number == 1:
        labels = {**labels, **title_label(prompt.messages)}
    if labels != place.labels:
        await client.sessions.update(place.session, labels=labels)
    return replace(place, labels=labels)
