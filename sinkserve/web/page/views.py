"""Conversations as the page sees them: plain values in the words of the protos, without what it does not show."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from sinkserve.client import Delta, Finished, ToolCallDelta, Turn
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from sinkserve.web.errors import error_body

View = dict[str, Any]


def session_view(session: pb.Session) -> View:
    """A session, with all that its cache is drawn from."""
    options = session.options
    return {
        "name": session.name,
        "engine": session.engine,
        "position": session.position,
        "turns": session.turns,
        "state": word(session, "state"),
        "labels": dict(session.labels),
        "owner": session.owner,
        "last_active_time": time(session.last_active_time),
        "tools": list(session.tool_names),
        "pinned_turns": list(session.pinned_turns),
        "window_start_position": session.window_start_position,
        "oldest_visible_turn": session.oldest_visible_turn,
        "evicted_tokens": session.evicted_tokens,
        "options": {
            "sink_tokens": options.sink_tokens,
            "window_tokens": options.window_tokens,
            "recall_tokens": options.recall_tokens,
            "on_full": word(options, "on_full"),
            "durability": word(options, "durability"),
        },
    }


def turn_view(turn: pb.TurnRecord) -> View:
    """A turn that was accepted; `reason` is empty while it runs or waits."""
    usage = turn.usage
    return {
        "turn_id": turn.turn_id,
        "input": _input(turn),
        "can_be_sent_again": _can_be_sent_again(turn),
        "reply": turn.reply,
        "reason": word(turn, "reason"),
        "shortened": turn.shortened,
        "reasoning": turn.reasoning,
        "tool_calls": [call_view(call) for call in turn.tool_calls],
        "recalled": recalled_view(turn.recalled),
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "generated_tokens": usage.generated_tokens,
            "position": usage.position,
            "evicted_tokens": usage.evicted_tokens,
            "recalled_tokens": usage.recalled_tokens,
        },
    }


def _input(turn: pb.TurnRecord) -> list[View]:
    """What was said, as messages."""
    match turn.WhichOneof("input"):
        case "text":
            return [{"role": "user", "content": turn.text}]
        case "messages":
            return [_message_view(each) for each in turn.messages.messages]
        case _:
            return [{"role": "user", "content": f"{len(turn.token_ids.ids):,} tokens"}]


def _message_view(message: pb.ChatMessage) -> View:
    """A message, without what it has nothing of."""
    of_tools = {
        "tool_call_id": message.tool_call_id,
        "name": message.name,
        "tool_calls": [call_view(call) for call in message.tool_calls],
    }
    return {"role": message.role, "content": message.content, **{key: has for key, has in of_tools.items() if has}}


def _can_be_sent_again(turn: pb.TurnRecord) -> bool:
    """Whether `input` is all that was said, in words that the page can say."""
    calls = any(message.tool_calls for message in turn.messages.messages)
    return not (turn.shortened or calls or turn.HasField("token_ids"))


def recalled_view(recalled: Iterable[pb.RecalledTurn]) -> list[View]:
    """Turns that were read again."""
    return [{"turn_id": each.turn_id, "position": each.position, "tokens": each.tokens} for each in recalled]


def started_view(turn: Turn) -> View:
    """A turn that runs. It has no more to say where it was cancelled while it waited."""
    if turn.started is None:
        return {"turn_id": turn.id, "attempt": turn.attempt, "prompt_tokens": 0, "recalled": []}
    return {
        "turn_id": turn.id,
        "attempt": turn.attempt,
        "prompt_tokens": turn.started.prompt_tokens,
        "recalled": recalled_view(turn.started.recalled),
    }


def delta_view(delta: Delta) -> View:
    """A piece of a reply, without what it has nothing of."""
    calls = [{"index": call.index, **call_view(call)} for call in delta.tool_calls]
    pieces = {"text": delta.text, "reasoning": delta.reasoning, "tool_calls": calls}
    return {"tokens": len(delta.token_ids), **{name: piece for name, piece in pieces.items() if piece}}


def call_view(call: pb.ToolCall | ToolCallDelta) -> View:
    """A call of a tool, or a piece of one, whose id and name come with the first."""
    return {"id": call.id, "name": call.name, "arguments": call.arguments}


def finished_view(finished: Finished) -> View:
    """How a turn ended."""
    return {
        "reason": finished.reason,
        "format_matched": finished.format_matched,
        "usage": asdict(finished.usage),
        "timing": asdict(finished.timing),
        "tokens_per_second": finished.tokens_per_second,
        "notice": asdict(finished.notice) if finished.notice is not None else None,
        "error": error_body(finished.error) if finished.error is not None else None,
    }


def word(message: Message, field: str) -> str:
    """What a field of an enum says, in a word; empty where it says nothing, a number where a newer server says it."""
    value = getattr(message, field)
    enum = message.DESCRIPTOR.fields_by_name[field].enum_type
    assert enum is not None, field
    values = enum.values_by_number
    prefix = values[0].name.removesuffix("UNSPECIFIED")
    if value not in values:
        return str(value)
    return values[value].name.removeprefix(prefix).lower() if value else ""


def time(stamp: Timestamp) -> str:
    """RFC 3339; empty where there is none."""
    return stamp.ToJsonString() if stamp.ByteSize() else ""
