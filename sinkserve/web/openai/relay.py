"""What of a reply is new to a client that cannot take anything back. Pure."""

from __future__ import annotations

from typing import NamedTuple

from sinkserve.client import Delta
from sinkserve.runtime.v1 import conversation_service_pb2 as pb
from sinkserve.web.errors import WebError


class Piece(NamedTuple):
    """What came of a reply."""

    text: str
    logprobs: tuple[pb.TokenLogprobs, ...] = ()


class Relay:
    """Deltas in, pieces out. A reply that comes again, as after a crash, has its seed again: what was sent is not."""

    def __init__(self) -> None:
        self.sent = ""
        self._sent_tokens = 0
        self.restart()

    def restart(self) -> None:
        """The reply comes again from its beginning."""
        self._attempt, self._text, self._tokens = 0, "", 0

    def take(self, delta: Delta) -> Piece | None:
        """What of the delta is new. Raises WebError where a reply that came again came out otherwise."""
        if delta.attempt != self._attempt:
            self.restart()
            self._attempt = delta.attempt
        before, self._text = len(self._text), self._text + delta.text
        if not _agree(self._text, self.sent, before):
            what = "the server crashed, and the reply that it began anew is another one; ask for the response by its id"
            raise WebError(503, what, "reply_began_anew")
        known = max(0, self._sent_tokens - self._tokens)
        self._tokens += len(delta.token_ids)
        self._sent_tokens = max(self._sent_tokens, self._tokens)
        new, self.sent = self._text[len(self.sent) :], max(self.sent, self._text, key=len)
        logprobs = delta.logprobs[known:]
        return Piece(new, logprobs) if new or logprobs else None


def _agree(one: str, other: str, start: int) -> bool:
    """Whether both are the same as far as both go, which they are up to `start`."""
    end = min(len(one), len(other))
    return one[start:end] == other[start:end]
