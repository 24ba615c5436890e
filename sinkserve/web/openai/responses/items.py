"""Items of an input as messages: what was said, called and answered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from sinkserve.client import ToolCall
from sinkserve.web.errors import WebError
from sinkserve.web.openai.body import Body, text_of
from sinkserve.web.openai.prompt import Message


class _Item(Body):
    id: str = ""
    status: str = ""


class _Message(_Item):
    type: Literal["message"] = "message"
    role: str
    content: Any
    phase: str = ""


class _Call(_Item):
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str


class _Result(_Item):
    type: Literal["function_call_output"]
    call_id: str
    output: Any


def messages_of(items: Sequence[dict[str, Any]]) -> list[Message]:
    """The messages of an input; what the model thought is left out. Raises WebError for items of other types."""
    said: list[Message] = []
    for message in _messages(items):
        if said and said[-1].role == message.role == "assistant" and message.calls:  # one reply said and called
            said[-1] = said[-1]._replace(calls=said[-1].calls + message.calls)
        else:
            said.append(message)
    return said


def _messages(items: Sequence[dict[str, Any]]) -> Iterator[Message]:
    for index, item in enumerate(items):
        where, kind = f"input[{index}]", item.get("type", "message")
        if kind == "message":
            message = _Message.parse(item, where)
            yield Message(message.role, text_of(message.content, f"{where}.content"))
        elif kind == "function_call":
            call = _Call.parse(item, where)
            yield Message("assistant", "", (ToolCall(call.call_id, call.name, call.arguments),))
        elif kind == "function_call_output":
            result = _Result.parse(item, where)
            yield Message("tool", text_of(result.output, f"{where}.output"), call_id=result.call_id)
        elif kind != "reasoning":
            what = f"{where}: items of type {kind!r} are not supported here"
            raise WebError(400, what, "unsupported_value", f"{where}.type")
