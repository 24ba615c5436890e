"""One reply, put together from the events of its turn, however often a stream was lost in between.

Knows events and text; nothing of streams, tasks or other turns. A server may repeat events that were seen
already, in other portions: what was delivered is counted in characters and tokens, and delivered once. A turn
that starts again after a crash (`attempt` grows) voids what came before.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sinkserve.client.errors import SinkServeError, from_status
from sinkserve.runtime.v1 import conversation_service_pb2 as pb


class FinishReason(StrEnum):
    """Why a turn ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    CONTEXT_FULL = "context_full"
    INPUT_ONLY = "input_only"
    ERROR = "error"
    TOOL_CALLS = "tool_calls"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool: run it, and send what it answers with `Conversation.answer`."""

    id: str
    name: str
    arguments: str
    """JSON, as the model wrote it."""
    incomplete: bool = False
    """The arguments are no whole JSON: the reply ended inside them, or the model wrote something else."""


@dataclass(frozen=True)
class ToolCallDelta:
    """A piece of the call `index` of a reply; id and name come with the first, and whole."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True)
class Delta:
    """A piece of a reply, to append to the pieces of the same attempt."""

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[pb.TokenLogprobs, ...] = ()
    attempt: int = 1
    """Grows when the turn starts again after a crash of its server: then drop what earlier attempts said."""
    reasoning: str = ""
    """What the model thinks before it replies; it is not in `text`."""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    """Pieces of calls; they are not in `text`."""


@dataclass(frozen=True)
class Usage:
    """Tokens of a turn."""

    prompt_tokens: int
    generated_tokens: int
    position: int
    """Tokens of the whole session after the turn, evicted ones included."""
    evicted_tokens: int
    """Tokens that left the window in this turn."""
    drafted_tokens: int = 0
    """Tokens that were guessed and fed on trial."""
    accepted_tokens: int = 0
    """Guessed tokens that were right."""
    recalled_tokens: int = 0
    """Tokens of turns that were read again; `Turn.started.recalled` names these."""
    window_start_position: int | None = None
    """The model sees the sinks and the tokens from this position on; what is between them has left the window. None: an
    older server did not say."""
    oldest_visible_turn: str = ""
    """Id of the oldest turn from which on nothing has left; empty: not even the last is whole."""
    reasoning_tokens: int = 0
    """Tokens in which the model thought; they are among the generated."""


@dataclass(frozen=True)
class WindowNotice:
    """What left the window in a turn: the tokens from `start_position` to before `end_position`, for ever."""

    start_position: int
    end_position: int
    turns: int
    """Turns that were whole in view until now."""
    turn_ids: tuple[str, ...]
    """Those turns, the oldest first; of more than 100 the first 100."""


@dataclass(frozen=True)
class Timing:
    """Times of a turn, in seconds, as the server saw them."""

    queue_s: float
    prefill_s: float
    time_to_first_token_s: float
    decode_s: float


@dataclass(frozen=True)
class Finished:
    """How a turn ended."""

    reason: FinishReason
    usage: Usage
    timing: Timing
    stop_sequence: str = ""
    """The stop text that ended it, with STOP."""
    error: SinkServeError | None = None
    """The error, with ERROR."""
    notice: WindowNotice | None = None
    """What was forgotten, in a session with `on_full="notify"`."""
    format_matched: bool | None = None
    """Whether the reply is whole in its `response_format`, or ended before; None without one."""
    tool_calls: tuple[ToolCall, ...] = ()
    """What the reply calls, with TOOL_CALLS; or called until it ended otherwise."""

    @property
    def tokens_per_second(self) -> float:
        """Speed between the first generated token and the last; 0 when fewer than two came."""
        tokens, seconds = self.usage.generated_tokens - 1, self.timing.decode_s
        return tokens / seconds if tokens > 0 and seconds > 0 else 0.0


class Reply:
    """A reply so far. `received` counts within one pass over the events, the deltas hold what was delivered."""

    def __init__(self) -> None:
        self.deltas: list[Delta] = []
        self.token_ids: list[int] = []
        self.attempt = 1
        self._text, self._reasoning = _Delivered(), _Delivered()
        self._arguments: dict[int, _Delivered] = {}
        self._received_tokens = 0

    @property
    def text(self) -> str:
        """What it says."""
        return self._text.text

    @property
    def reasoning(self) -> str:
        """What the model thought."""
        return self._reasoning.text

    def start(self, attempt: int) -> None:
        """Start a pass over the turn's events."""
        if attempt > self.attempt:
            self.attempt = attempt
            self.deltas, self.token_ids = [], []
            self._text, self._reasoning, self._arguments = _Delivered(), _Delivered(), {}
        self._received_tokens = 0
        for delivered in (self._text, self._reasoning, *self._arguments.values()):
            delivered.received = 0

    def append(self, delta: pb.Delta) -> None:
        """Deliver what of `delta` is new."""
        text, reasoning = self._text.new(delta.text), self._reasoning.new(delta.reasoning)
        calls = tuple(piece for call in delta.tool_calls if (piece := self._piece(call)) is not None)
        known = max(0, len(self.token_ids) - self._received_tokens)
        token_ids = tuple(delta.token_ids[known:])
        self._received_tokens += len(delta.token_ids)
        if text or token_ids or reasoning or calls:
            self.token_ids += token_ids
            logprobs = tuple(delta.logprobs[known:])
            self.deltas.append(Delta(text, token_ids, logprobs, self.attempt, reasoning, calls))

    def _piece(self, call: pb.ToolCallDelta) -> ToolCallDelta | None:
        """What of a piece is new."""
        is_first = call.index not in self._arguments
        new = self._arguments.setdefault(call.index, _Delivered()).new(call.arguments)
        if is_first:
            return ToolCallDelta(call.index, call.id, call.name, new)
        return ToolCallDelta(call.index, arguments=new) if new else None


@dataclass
class _Delivered:
    """A text that was delivered, and how much of it was received in the present pass."""

    text: str = ""
    received: int = 0

    def new(self, piece: str) -> str:
        """Of the next piece what was not delivered yet."""
        new = piece[max(0, len(self.text) - self.received) :]
        self.received += len(piece)
        self.text += new
        return new


def read_finished(finished: pb.TurnFinished) -> Finished:
    """How a turn ended, from the wire."""
    usage, timing = finished.usage, finished.timing
    return Finished(
        reason=read_reason(finished.reason),
        usage=Usage(
            prompt_tokens=usage.prompt_tokens,
            generated_tokens=usage.generated_tokens,
            position=usage.position,
            evicted_tokens=usage.evicted_tokens,
            drafted_tokens=usage.drafted_tokens,
            accepted_tokens=usage.accepted_tokens,
            recalled_tokens=usage.recalled_tokens,
            window_start_position=usage.window_start_position if usage.HasField("window_start_position") else None,
            oldest_visible_turn=usage.oldest_visible_turn,
            reasoning_tokens=usage.reasoning_tokens,
        ),
        timing=Timing(
            queue_s=timing.queue_duration.ToTimedelta().total_seconds(),
            prefill_s=timing.prefill_duration.ToTimedelta().total_seconds(),
            time_to_first_token_s=timing.time_to_first_token_duration.ToTimedelta().total_seconds(),
            decode_s=timing.decode_duration.ToTimedelta().total_seconds(),
        ),
        stop_sequence=finished.stop_sequence,
        error=from_status(finished.error) if finished.HasField("error") else None,
        notice=_read_notice(finished.notice) if finished.HasField("notice") else None,
        format_matched=finished.format_matched if finished.HasField("format_matched") else None,
        tool_calls=tuple(ToolCall(call.id, call.name, call.arguments, call.incomplete) for call in finished.tool_calls),
    )


def _read_notice(notice: pb.WindowNotice) -> WindowNotice:
    return WindowNotice(notice.start_position, notice.end_position, notice.turns, tuple(notice.turn_ids))


def read_reason(reason: pb.FinishReason.ValueType) -> FinishReason:
    """Why a turn ended, from the wire."""
    try:
        return FinishReason(pb.FinishReason.Name(reason).removeprefix("FINISH_REASON_").lower())
    except ValueError:  # a newer server
        return FinishReason.UNKNOWN
