"""What a turn is: what a client asks for, and what is kept of it. Plain data."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Annotated, TypeVar

from pydantic import Field, TypeAdapter

from common.controls import check_name
from common.errors import SinkServeError
from common.text.tools.values import ToolCall
from runtime_service.domain.options import GenerationOptions, RequestedOptions
from runtime_service.domain.recall import PastTurn, Recall
from runtime_service.domain.window_view import WindowNotice

LONGEST_TURN_ID = 64
TOKEN_BYTES = 36
"""About what one token id takes in memory, in a tuple."""


def check_turn_id(turn_id: str, field: str) -> None:
    """Raise InvalidArgument for an id that no turn can have."""
    check_name(turn_id, field, LONGEST_TURN_ID)


class FinishReason(StrEnum):
    """Why a turn ended; names as on the wire."""

    STOP = "STOP"
    LENGTH = "LENGTH"
    CANCELLED = "CANCELLED"
    CONTEXT_FULL = "CONTEXT_FULL"
    INPUT_ONLY = "INPUT_ONLY"
    ERROR = "ERROR"
    TOOL_CALLS = "TOOL_CALLS"


T = TypeVar("T")
Unsaid = Annotated[T, Field(exclude_if=lambda value: not value)]
"""Not written where it is empty: a request of before has the same digest."""


@dataclass(frozen=True)
class Message:
    """One message of a chat: `role` is user, assistant or tool.

    A tool's message is the result of the call `tool_call_id` of the tool `name`; `tool_calls` are the assistant's.
    """

    role: str
    content: str
    tool_call_id: Unsaid[str] = ""
    name: Unsaid[str] = ""
    tool_calls: Unsaid[tuple[ToolCall, ...]] = ()

    @property
    def size_bytes(self) -> int:
        """About what it takes in memory."""
        calls = sum(len(call.name) + len(call.arguments) + TOKEN_BYTES for call in self.tool_calls)
        return len(self.content) + TOKEN_BYTES + calls


@dataclass(frozen=True)
class TurnInput:
    """What goes in: exactly one of the three is not None."""

    text: str | None = None
    messages: tuple[Message, ...] | None = None
    token_ids: tuple[int, ...] | None = None


@dataclass(frozen=True)
class TurnRequest:
    """A turn as the client asks for it."""

    turn_id: str
    input: TurnInput
    generation: RequestedOptions = field(default_factory=RequestedOptions)
    no_reply: bool = False
    allow_eviction_within_turn: bool = False
    recall: Recall | None = None

    @property
    def size_bytes(self) -> int:
        """About what its input takes in memory."""
        given = self.input
        if given.token_ids is not None:
            return TOKEN_BYTES * len(given.token_ids)
        asked = self.generation.response_format
        form = 0 if asked is None else asked.size_bytes
        return form + len(given.text or "") + sum(message.size_bytes for message in given.messages or ())

    def with_id(self) -> TurnRequest:
        """The request with an id, drawn if it has none; raises InvalidArgument for one that no turn may have."""
        check_turn_id(self.turn_id, "turn.turn_id")
        return self if self.turn_id else replace(self, turn_id=secrets.token_hex(16))

    def body(self) -> str:
        """Everything but the id, as JSON: the same text for the same request."""
        return _REQUEST.dump_json(replace(self, turn_id="")).decode()

    def digest(self) -> bytes:
        """sha256 of the body: tells a repeated request from another under the same id."""
        return hashlib.sha256(self.body().encode()).digest()

    @classmethod
    def from_body(cls, turn_id: str, body: str) -> TurnRequest:
        """The request whose `body` was kept."""
        return replace(_REQUEST.validate_json(body), turn_id=turn_id)


_REQUEST = TypeAdapter(TurnRequest)


@dataclass(frozen=True)
class Usage:
    """Tokens of a turn; `position` is the whole session's after it. For drafts see `Speculation`.

    Those that were recalled are the first of the prompt's.
    After it the model sees the sinks and what is at `window_start_position` (None: it ended before that was kept) and
    behind it; `oldest_visible_turn` is the oldest turn from which on nothing has left.
    """

    prompt_tokens: int = 0
    generated_tokens: int = 0
    position: int = 0
    evicted_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    recalled_tokens: int = 0
    window_start_position: int | None = None
    oldest_visible_turn: str = ""
    reasoning_tokens: int = 0


@dataclass(frozen=True)
class Timing:
    """Times of a turn, in seconds."""

    queue_s: float = 0.0
    prefill_s: float = 0.0
    first_token_s: float = 0.0
    decode_s: float = 0.0


@dataclass(frozen=True)
class Result:
    """How a turn ended, as it is told and kept. `token_ids` are those of the reply; `format_matched` is None where it
    was to have no form.
    """

    reason: FinishReason
    usage: Usage
    timing: Timing
    prompt_tokens: int = 0
    text: str = ""
    token_ids: tuple[int, ...] = ()
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    stop_sequence: str = ""
    error: SinkServeError | None = None
    recalled: tuple[PastTurn, ...] = ()
    notice: WindowNotice | None = None
    format_matched: bool | None = None
    started_sequence: int = 0
    finished_sequence: int = 0

    @property
    def size_bytes(self) -> int:
        """About what it takes in memory."""
        calls = sum(len(call.arguments) + TOKEN_BYTES for call in self.tool_calls)
        return len(self.text) + len(self.reasoning) + calls + TOKEN_BYTES * len(self.token_ids)


def format_matched(options: GenerationOptions, reason: FinishReason, stop_sequence: str) -> bool | None:
    """Whether a reply is whole in its form: it is where it ended by itself, since nothing else can end it before."""
    if options.response_format is None or reason is FinishReason.INPUT_ONLY:
        return None
    return reason is FinishReason.STOP and not stop_sequence


@dataclass(frozen=True)
class Turn:
    """A turn that was accepted, as it is kept; `result` is None while it runs or waits.

    `attempt` counts how often it was started, `stops` how often the server was stopped meanwhile, in good order.
    """

    number: int
    request: TurnRequest
    options: GenerationOptions
    created_at: datetime
    attempt: int = 1
    stops: int = 0
    result: Result | None = None
    ended_at: datetime | None = None

    @property
    def turn_id(self) -> str:
        """The client's id of it."""
        return self.request.turn_id

    def past(self, tokens: int) -> PastTurn | None:
        """Where its own tokens stand, of the `tokens` that it added; None: what was said was not read as a whole."""
        result = self.result
        if result is None or not tokens or result.usage.prompt_tokens < result.prompt_tokens:
            return None
        own = tokens - result.usage.recalled_tokens
        return PastTurn(self.number, result.usage.position - own, own, self.turn_id)
