"""Sessions and turns to rows and back; nothing else."""

from __future__ import annotations

import json
import sys
from array import array
from collections.abc import Collection, Iterable
from dataclasses import asdict, astuple, dataclass, replace
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import RowMapping

from common import errors
from common.errors import Internal, Reason, SinkServeError
from common.text.tools.values import ToolCall
from runtime_service.domain.options import GenerationOptions
from runtime_service.domain.recall import PastTurn
from runtime_service.domain.session import Session, SessionOptions
from runtime_service.domain.turn import FinishReason, Result, Timing, Turn, TurnRequest, Usage, format_matched
from runtime_service.domain.window_view import WindowNotice

_SESSION_OPTIONS = TypeAdapter(SessionOptions)
_GENERATION_OPTIONS = TypeAdapter(GenerationOptions)


@dataclass(frozen=True)
class _Parts:
    """Column `parts` of a turn; `ends`: the reply ended by its calls."""

    ends: bool
    reasoning: str
    reasoning_tokens: int
    calls: tuple[ToolCall, ...]


_PARTS = TypeAdapter(_Parts)
TOKEN_BYTES = 4
"""Of a token that is packed."""


def pack(tokens: Iterable[int]) -> bytes:
    """Token ids as little-endian int32."""
    return _little(array("i", tokens)).tobytes()


def unpack(data: bytes) -> list[int]:
    """Token ids of `pack`."""
    return unpack_array(data).tolist()


def unpack_array(data: bytes) -> array[int]:
    """The same, quicker where few of many numbers are looked at."""
    return _little(array("i", data))


def session_to_row(session: Session) -> dict[str, Any]:
    """Values of a session's row, without its key."""
    row = {name: getattr(session, name) for name in _PLAIN}
    return {
        **row,
        "options": _SESSION_OPTIONS.dump_json(session.options).decode(),
        "labels": json.dumps(dict(session.labels)),
        "opening": pack(session.opening),
        "pins": past_turns_to_json(session.pins),
        "delete_after_idle_s": session.options.delete_after_idle_s,
    }


def session_from_row(row: RowMapping) -> Session:
    """A session as it was kept."""
    return Session(
        key=row["key"],
        options=_SESSION_OPTIONS.validate_json(row["options"]),
        labels=json.loads(row["labels"]),
        opening=tuple(unpack(row["opening"])),
        pins=_past_turns(row["pins"]),
        **{name: row[name] for name in _PLAIN},
    )


def past_turns_to_json(turns: Collection[PastTurn]) -> str | None:
    """Pinned turns of a session's row, or those that a turn recalled; None: there are none."""
    return json.dumps([astuple(turn) for turn in turns]) if turns else None


def _past_turns(text: str | None) -> tuple[PastTurn, ...]:
    return tuple(PastTurn(*turn) for turn in json.loads(text or "[]"))


def turn_to_row(session_key: int, turn: Turn) -> dict[str, Any]:
    """Values of the row of a turn that was accepted."""
    return {
        "session_key": session_key,
        "number": turn.number,
        "turn_id": turn.turn_id,
        "digest": turn.request.digest(),
        "body": turn.request.body(),
        "options": _GENERATION_OPTIONS.dump_json(turn.options).decode(),
        "attempt": turn.attempt,
        "stops": turn.stops,
        "created_at": turn.created_at,
    }


def turn_from_row(row: RowMapping) -> Turn:
    """A turn as it was kept."""
    options = _GENERATION_OPTIONS.validate_json(row["options"])
    return Turn(
        number=row["number"],
        request=TurnRequest.from_body(row["turn_id"], row["body"]),
        options=options,
        created_at=row["created_at"],
        attempt=row["attempt"],
        stops=row["stops"],
        result=_with_match(result_from_row(row), options) if row["result"] else None,
        ended_at=row["ended_at"],
    )


def result_to_json(result: Result) -> str:
    """A result without its token ids, what it recalled and what was in view, which the row has beside it."""
    data = {name: getattr(result, name) for name in _RESULT}
    if result.reason is FinishReason.TOOL_CALLS:
        data["reason"] = FinishReason.STOP  # for programs of before; `parts` has the calls
    error = result.error
    if error is not None:
        data["error"] = {
            "kind": type(error).__name__,
            "reason": error.reason,
            "message": error.message,
            "metadata": error.metadata,
        }
    usage = {name: count for name, count in asdict(result.usage).items() if name not in _BESIDE}
    return json.dumps({**data, "usage": usage, "timing": asdict(result.timing)})


def view_to_json(result: Result) -> str:
    """What the model saw after a turn, and what had left in it."""
    view = {name: getattr(result.usage, name) for name in _VIEW}
    return json.dumps(view | ({} if result.notice is None else {"notice": asdict(result.notice)}))


def parts_to_json(result: Result) -> str | None:
    """What a reply thought and called beside its text; None: nothing."""
    if not (result.reasoning or result.tool_calls or result.usage.reasoning_tokens):
        return None
    parts = _Parts(
        result.reason is FinishReason.TOOL_CALLS, result.reasoning, result.usage.reasoning_tokens, result.tool_calls
    )
    return _PARTS.dump_json(parts).decode()


def _with_parts(result: Result, text: str | None) -> Result:
    if text is None:
        return result
    parts = _PARTS.validate_json(text)
    return replace(
        result,
        reason=FinishReason.TOOL_CALLS if parts.ends else result.reason,
        usage=replace(result.usage, reasoning_tokens=parts.reasoning_tokens),
        reasoning=parts.reasoning,
        tool_calls=parts.calls,
    )


def result_from_row(row: RowMapping) -> Result:
    """The result of a turn that has ended; the row's tokens are all that it added to the history."""
    data, tokens, recalled = json.loads(row["result"]), unpack(row["tokens"] or b""), _past_turns(row["recalled"])
    prompt, usage = data["prompt_tokens"], Usage(**data["usage"])
    view = json.loads(row["view"] or "{}")
    notice = view.pop("notice", None)
    usage = replace(usage, recalled_tokens=min(usage.prompt_tokens, sum(turn.tokens for turn in recalled)), **view)
    end = usage.prompt_tokens + usage.generated_tokens
    data["error"] = _error(data["error"]) if "error" in data else None
    data |= {"reason": FinishReason(data["reason"]), "usage": usage, "timing": Timing(**data["timing"])}
    data |= {"recalled": recalled, "notice": None if notice is None else _notice(notice)}
    result = Result(**{**data, "prompt_tokens": prompt}, token_ids=tuple(tokens[usage.prompt_tokens : end]))
    return _with_parts(result, row["parts"])


def _with_match(result: Result, options: GenerationOptions) -> Result:
    return replace(result, format_matched=format_matched(options, result.reason, result.stop_sequence))


def _notice(data: dict[str, Any]) -> WindowNotice:
    return WindowNotice(**{**data, "turn_ids": tuple(data["turn_ids"])})


def _error(data: dict[str, Any]) -> SinkServeError:
    kind = getattr(errors, data["kind"], Internal)
    error: SinkServeError = kind(Reason(data["reason"]), data["message"])
    error.metadata = data["metadata"]
    return error


def _little(tokens: array[int]) -> array[int]:
    if sys.byteorder == "big":
        tokens.byteswap()
    return tokens


_PLAIN = (
    "principal",
    "session_id",
    "engine_name",
    "engine_version",
    "engine_digest",
    "digest",
    "pinned",
    "position",
    "turns",
    "epoch",
    "last_sequence",
    "window_start_position",
    "oldest_visible_turn",
    "created_at",
    "last_active_at",
    "expires_at",
)
_VIEW = ("window_start_position", "oldest_visible_turn")
_BESIDE = {"recalled_tokens", "reasoning_tokens", *_VIEW}
"""Of usage, in columns of their own: programs of before refuse what they do not know."""
_RESULT = ("reason", "prompt_tokens", "text", "stop_sequence", "started_sequence", "finished_sequence")
