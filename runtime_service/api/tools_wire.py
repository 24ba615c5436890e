"""Tools, calls and choices to plain data and back; nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from common.errors import InvalidArgument, Reason
from common.text.tools.values import Tool, ToolCall
from runtime_service.decoding.parts.pieces import CallPiece
from runtime_service.domain.tools import CHOICE_FIELD, FIELD, ToolChoice, ToolMode, check_sizes, parameters_of
from runtime_service.domain.turn import Message
from sinkserve.runtime.v1 import conversation_service_pb2 as pb

_MODES = {
    pb.ToolChoice.MODE_UNSPECIFIED: ToolMode.AUTO,
    pb.ToolChoice.MODE_AUTO: ToolMode.AUTO,
    pb.ToolChoice.MODE_NONE: ToolMode.NONE,
    pb.ToolChoice.MODE_REQUIRED: ToolMode.REQUIRED,
}


def tools_from_wire(messages: Sequence[pb.Tool]) -> tuple[Tool, ...]:
    """Tools of a new session; raises InvalidArgument (INVALID_FIELD)."""
    check_sizes(len(messages), sum(message.ByteSize() for message in messages))
    return tuple(
        Tool(message.name, message.description, parameters_of(message.parameters, f"{FIELD}[{index}].parameters"))
        for index, message in enumerate(messages)
    )


def choice_from_wire(message: pb.GenerationOptions) -> ToolChoice | None:
    """Whether a turn calls tools; None: it does not say. Raises InvalidArgument (INVALID_FIELD)."""
    if not message.HasField("tool_choice"):
        return None
    choice = message.tool_choice
    if choice.WhichOneof("choice") == "function":
        return ToolChoice(ToolMode.FUNCTION, choice.function)
    if choice.mode not in _MODES:
        field = f"{CHOICE_FIELD}.mode"
        what = f"{field} is {choice.mode}; it has to be MODE_AUTO, MODE_NONE or MODE_REQUIRED"
        raise InvalidArgument(Reason.INVALID_FIELD, what, field=field)
    return ToolChoice(_MODES[choice.mode])


def choice_to_wire(choice: ToolChoice | None) -> pb.ToolChoice | None:
    """What a turn says of calls."""
    if choice is None:
        return None
    if choice.mode is ToolMode.FUNCTION:
        return pb.ToolChoice(function=choice.function)
    return pb.ToolChoice(mode=pb.ToolChoice.Mode.Value(f"MODE_{choice.mode}"))


def message_from_wire(message: pb.ChatMessage) -> Message:
    """One message of a chat."""
    return Message(
        message.role, message.content, message.tool_call_id, message.name, calls_from_wire(message.tool_calls)
    )


def message_to_wire(message: Message) -> pb.ChatMessage:
    """One message of a chat."""
    return pb.ChatMessage(
        role=message.role,
        content=message.content,
        tool_call_id=message.tool_call_id,
        name=message.name,
        tool_calls=calls_to_wire(message.tool_calls),
    )


def calls_from_wire(calls: Iterable[pb.ToolCall]) -> tuple[ToolCall, ...]:
    """Calls of a message."""
    return tuple(ToolCall(call.id, call.name, call.arguments) for call in calls)


def calls_to_wire(calls: Iterable[ToolCall]) -> list[pb.ToolCall]:
    """Calls of a message or a reply."""
    return [
        pb.ToolCall(id=call.id, name=call.name, arguments=call.arguments, incomplete=call.incomplete) for call in calls
    ]


def pieces_to_wire(pieces: Iterable[CallPiece]) -> list[pb.ToolCallDelta]:
    """Pieces of calls."""
    return [
        pb.ToolCallDelta(index=piece.index, id=piece.id, name=piece.name, arguments=piece.arguments) for piece in pieces
    ]
