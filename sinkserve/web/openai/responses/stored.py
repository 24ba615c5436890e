"""`/v1/responses/ID`: a response as its session has it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from sinkserve.client.reply import read_reason
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from sinkserve.web.callers import client_of
from sinkserve.web.errors import WebError
from sinkserve.web.openai.history import metadata_of
from sinkserve.web.openai.ids import TurnName, read_response
from sinkserve.web.openai.responses import answer, output
from sinkserve.web.openai.responses.where import record_of, session_of


async def get(request: Request) -> JSONResponse:
    """The response, also while it is being made."""
    client, turn = client_of(request), _asked(request)
    session = await session_of(client, turn.session, turn.response)
    return JSONResponse(_response(turn, session, await record_of(client, turn)))


async def list_input(request: Request) -> JSONResponse:
    """What went into this response, without what its conversation had heard before."""
    turn = _asked(request)
    record = await record_of(client_of(request), turn)
    return JSONResponse(item_list(input_items(turn, record)))


async def delete(request: Request) -> JSONResponse:
    """Take back the last response of a conversation; where it is the only one, the conversation with it."""
    client, turn = client_of(request), _asked(request)
    session = await session_of(client, turn.session, turn.response)
    await record_of(client, turn)
    if session.turns > turn.number:
        what = f"{turn.response} is not the last of its conversation: others go on from it, and would not be the same"
        raise WebError(409, what, "response_continued")
    if turn.number == 1:
        await client.sessions.delete(session.name)
    else:
        await client.sessions.rewind(session.name, turn.turn_id, drop_turn=True)
    return JSONResponse({"id": turn.response, "object": "response", "deleted": True})


def _asked(request: Request) -> TurnName:
    return read_response(request.path_params["response"])


def _response(turn: TurnName, session: pb.Session, record: pb.TurnRecord) -> dict[str, Any]:
    status = answer.status_of(read_reason(record.reason)) if record.HasField("end_time") else "in_progress"
    usage = record.usage
    return {
        **answer.response_head(turn, session.engine, record.create_time.seconds),
        **answer.how_it_ended(status),
        "metadata": metadata_of(session.labels),
        "output": _output(turn, record, status),
        "usage": None
        if status == "in_progress"
        else answer.usage_of(usage.prompt_tokens, usage.generated_tokens, usage.reasoning_tokens),
    }


def _output(turn: TurnName, record: pb.TurnRecord, status: str) -> list[dict[str, Any]]:
    status = "incomplete" if status == "incomplete" else "completed"
    items = [output.reasoning_item(output.reasoning_id(turn), record.reasoning, status)] if record.reasoning else []
    items += [output.message_item(output.item_id(turn), record.reply, status)] if record.reply else []
    for index, call in enumerate(record.tool_calls):
        name = output.call_item_id(turn, index)
        items.append(output.call_item(name, call.id, call.name, call.arguments, status))
    return items


def input_items(turn: TurnName, record: pb.TurnRecord) -> list[dict[str, Any]]:
    """The messages that went into a turn."""
    messages = record.messages.messages or (pb.ChatMessage(role="user", content=record.text),)
    return [item for index, each in enumerate(messages) for item in _input_items(turn, index, each)]


def _input_items(turn: TurnName, index: int, message: pb.ChatMessage) -> Iterator[dict[str, Any]]:
    name = f"{output.item_id(turn)}_{index}"
    if message.role == "tool":
        result = {"call_id": message.tool_call_id, "output": message.content}
        yield {"id": name, "type": "function_call_output", **result, "status": "completed"}
        return
    if message.content or not message.tool_calls:
        user = message.role == "user"
        part = {"type": "input_text", "text": message.content} if user else output.output_text(message.content)
        yield {"id": name, "type": "message", "role": message.role, "status": "completed", "content": [part]}
    for number, call in enumerate(message.tool_calls):
        yield output.call_item(f"{name}_{number}", call.id, call.name, call.arguments, "completed")


def item_list(items: list[dict[str, Any]]) -> dict[str, Any]:
    """A page that has all of them."""
    first, last = (items[0]["id"], items[-1]["id"]) if items else (None, None)
    return {"object": "list", "data": items, "first_id": first, "last_id": last, "has_more": False}
