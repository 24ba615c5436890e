"""One reply on its way out: sampled tokens in; text, token ids and log-probabilities out, and when it ends.

Pure state machine: knows nothing of sessions, of the engine or of the wire. Tokens and text part ways here: every
token that was sampled is accepted, is reported once and is part of the history, the one that ends the reply and
those of a stop text included; only the text ends before the stop text.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import chain

from runtime_service.decoding.sampling import Sampled
from runtime_service.decoding.stop import StopFinder
from runtime_service.decoding.text import Text
from runtime_service.domain.options import GenerationOptions
from runtime_service.domain.turn import FinishReason


@dataclass(frozen=True)
class Finish:
    """End of a reply by itself: STOP or LENGTH; `stop_sequence` is the stop text that ended it, or empty."""

    reason: FinishReason
    stop_sequence: str = ""


@dataclass(frozen=True)
class TopLogprob:
    """One of the likeliest tokens: natural-log probability, and bytes."""

    token_id: int
    logprob: float
    token: bytes


@dataclass(frozen=True)
class TokenLogprobs:
    """Log-probabilities at one generated token."""

    token_id: int
    logprob: float
    token: bytes
    top: tuple[TopLogprob, ...]


@dataclass(frozen=True)
class Delta:
    """A piece of a reply. `logprobs` has one entry for each token id, or none at all."""

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()


MOST_JOINED = 64
"""Tokens that joined pieces have at most, so that no message grows without bound."""


def join(pieces: Sequence[Delta]) -> Delta:
    """Pieces of a reply that follow one another, as one."""
    if len(pieces) == 1:
        return pieces[0]
    return Delta(
        text="".join([piece.text for piece in pieces]),
        token_ids=tuple(chain.from_iterable([piece.token_ids for piece in pieces])),
        logprobs=tuple(chain.from_iterable([piece.logprobs for piece in pieces])),
    )


class Reply:
    """Life: `push` every sampled token until `finished`; `flush` when it ends earlier, such as by a cancel."""

    def __init__(self, text: Text, options: GenerationOptions, end_token_ids: Collection[int]) -> None:
        """`end_token_ids` are the engine's; with `ignore_eos` they do not end the reply."""
        self._text = text
        self._left = options.max_new_tokens
        self._ends = frozenset(() if options.ignore_eos else end_token_ids) | set(options.stop_token_ids)
        self._stop = StopFinder(options.stop)
        self._detokenizer = text.detokenizer()
        self.finished: Finish | None = None
        """Set by the push that ends the reply."""

    def push(self, sampled: Sampled) -> Delta:
        """Take the next token and return its delta; the text may be empty, or may be that of earlier tokens."""
        assert self.finished is None, "the reply has ended"
        self._left -= 1
        if sampled.token_id in self._ends:
            self.finished = Finish(FinishReason.STOP)
        text = "" if self.finished else self._stop.push(self._detokenizer.push(sampled.token_id))
        if self._stop.found is not None:
            self.finished = Finish(FinishReason.STOP, self._stop.found)
        elif self.finished is None and self._left == 0:
            self.finished = Finish(FinishReason.LENGTH)
        if self.finished:
            text += self._stop.flush()
        return Delta(text, (sampled.token_id,), self._logprobs(sampled))

    def flush(self) -> Delta | None:
        """Text that was held back, when the reply ends without a token that ends it. Nothing the second time."""
        text = self._stop.flush()
        return Delta(text) if text else None

    def _logprobs(self, sampled: Sampled) -> tuple[TokenLogprobs, ...]:
        if sampled.logprob is None:
            return ()
        name = self._text.token_bytes
        top = tuple(TopLogprob(token, logprob, name(token)) for token, logprob in sampled.top)
        return (TokenLogprobs(sampled.token_id, sampled.logprob, name(sampled.token_id), top),)
