"""One reply on its way out: sampled tokens in; text, token ids and log-probabilities out, and when it ends.

Pure state machine: knows nothing of sessions, of the engine or of the wire. Tokens and text part ways here: every
token that was sampled is accepted, is reported once and is part of the history, the one that ends the reply and
those of a stop text included; only the text ends before the stop text.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from common.text.tools.values import ToolCall
from runtime_service.decoding.delta import Delta, TokenLogprobs, TopLogprob
from runtime_service.decoding.parts.pieces import Pieces
from runtime_service.decoding.parts.reply_parts import ReplyParts
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


class Reply:
    """Life: `push` every sampled token until `finished`; `flush` when it ends earlier, such as by a cancel."""

    def __init__(
        self,
        text: Text,
        options: GenerationOptions,
        end_token_ids: Collection[int],
        new_id: Callable[[int], str] = str,
        before: Sequence[int] | None = None,
    ) -> None:
        """`end_token_ids` are the engine's; with `ignore_eos` they do not end the reply. `new_id` gives the id of the
        call with an index. `before` is what the prompt ends with, where that is not the template's.

        A reply with a form ends where that does: tokens of `stop_token_ids`, and an end that a grammar names, may be
        in the middle of it.
        """
        self._text = text
        self._left = options.max_new_tokens
        self._ends = frozenset(() if options.ignore_eos else end_token_ids)
        self._has_form = options.response_format is not None
        if not self._has_form:
            self._ends |= set(options.stop_token_ids)
        self._stop = StopFinder(options.stop)
        self._parts = ReplyParts(text.parts_of(options, before), text.detokenizer(), new_id)
        self.finished: Finish | None = None
        """Set by the push that ends the reply."""

    def push(self, sampled: Sampled, *, is_last: bool = False) -> Delta:
        """Take the next token and return its delta; the text may be empty, or may be that of earlier tokens.

        `is_last`: its form is whole with it.
        """
        assert self.finished is None, "the reply has ended"
        self._left -= 1
        if sampled.token_id in self._ends and (is_last or not self._has_form):
            self.finished = Finish(FinishReason.STOP)
        pieces = Pieces() if self.finished else self._parts.push(sampled.token_id)
        text = self._stop.push(pieces.text)
        if self._stop.found is not None:
            self.finished = Finish(FinishReason.STOP, self._stop.found)
        elif is_last or self._parts.has_most_calls:
            self.finished = Finish(FinishReason.STOP)
        elif self.finished is None and (self._left == 0 or self._parts.has_longest_calls):
            self.finished = Finish(FinishReason.LENGTH)
        if self.finished:
            pieces, rest = self._end(pieces)
            text += rest
        return Delta(text, (sampled.token_id,), self._logprobs(sampled), pieces.reasoning, pieces.calls)

    def flush(self) -> Delta | None:
        """What was held back, when the reply ends without a token that ends it. Nothing the second time."""
        pieces, text = self._end(Pieces())
        return Delta(text, reasoning=pieces.reasoning, calls=pieces.calls) if text or pieces != Pieces() else None

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """Calls of the reply; whole once it has ended."""
        return tuple(self._parts.calls)

    @property
    def reasoning_tokens(self) -> int:
        """Tokens in which the model thought."""
        return self._parts.reasoning_tokens

    def _end(self, pieces: Pieces) -> tuple[Pieces, str]:
        """The pieces with what was held back, and the text of it. A reply that calls tools ends by that."""
        held = self._parts.flush()
        text = self._stop.flush() if self._stop.found is not None else self._stop.push(held.text) + self._stop.flush()
        calls, finish = self._parts.calls, self.finished
        if finish == Finish(FinishReason.STOP) and calls and not any(call.incomplete for call in calls):
            self.finished = Finish(FinishReason.TOOL_CALLS)
        return pieces + Pieces(reasoning=held.reasoning, calls=held.calls), text

    def _logprobs(self, sampled: Sampled) -> tuple[TokenLogprobs, ...]:
        if sampled.logprob is None:
            return ()
        name = self._text.token_bytes
        top = tuple(TopLogprob(token, logprob, name(token)) for token, logprob in sampled.top)
        return (TokenLogprobs(sampled.token_id, sampled.logprob, name(sampled.token_id), top),)
