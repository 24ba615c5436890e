"""What of a reply is new to a client that cannot take anything back. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from sinkserve.client import Delta, ToolCallDelta
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from sinkserve.web.errors import WebError


class Piece(NamedTuple):
    """What came of a reply."""

    text: str = ""
    logprobs: tuple[pb.TokenLogprobs, ...] = ()
    reasoning: str = ""
    calls: tuple[ToolCallDelta, ...] = ()


@dataclass
class _Part:
    """One text of a reply: what was sent of it, and what came in the present pass."""

    sent: str = ""
    came: str = ""

    def take(self, piece: str) -> str:
        """What of the piece is new. Raises WebError where it is not what was sent."""
        before, self.came = len(self.came), self.came + piece
        end = min(len(self.came), len(self.sent))
        if self.came[before:end] != self.sent[before:end]:
            what = "the server crashed, and the reply that it began anew is another one; ask for the response by its id"
            raise WebError(503, what, "reply_began_anew")
        new = self.came[len(self.sent) :]
        self.sent += new
        return new


class Relay:
    """Deltas in, pieces out. A reply that comes again, as after a crash, has its seed again: what was sent is not."""

    def __init__(self) -> None:
        self._text, self._reasoning = _Part(), _Part()
        self._calls: dict[int, _Part] = {}
        self._sent_tokens = 0
        self.restart()

    @property
    def sent(self) -> str:
        """The text so far."""
        return self._text.sent

    def restart(self) -> None:
        """The reply comes again from its beginning."""
        self._attempt, self._tokens = 0, 0
        for part in (self._text, self._reasoning, *self._calls.values()):
            part.came = ""

    def take(self, delta: Delta) -> Piece | None:
        """What of the delta is new. Raises WebError where a reply that came again came out otherwise."""
        if delta.attempt != self._attempt:
            self.restart()
            self._attempt = delta.attempt
        known = max(0, self._sent_tokens - self._tokens)
        self._tokens += len(delta.token_ids)
        self._sent_tokens = max(self._sent_tokens, self._tokens)
        calls = tuple(new for call in delta.tool_calls if (new := self._call(call)) is not None)
        text, reasoning = self._text.take(delta.text), self._reasoning.take(delta.reasoning)
        piece = Piece(text, delta.logprobs[known:], reasoning, calls)
        return piece if any(piece) else None

    def _call(self, call: ToolCallDelta) -> ToolCallDelta | None:
        first = call.index not in self._calls
        new = self._calls.setdefault(call.index, _Part()).take(call.arguments)
        if first:
            return replace(call, arguments=new)
        return ToolCallDelta(call.index, arguments=new) if new else None
