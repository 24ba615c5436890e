"""One turn while it runs: what is fed, what is accepted, how it ends. Knows no engine, no slots, no I/O.

A token of the reply is *accepted* when it is sampled, and fed one step later, or before it: in a draft, which is right
as far as the tokens that are sampled are those of it. The last accepted token of a turn is not fed when the turn ends:
it is pending, as is the template's closing behind it, and goes before the next input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from common.engine.engine import FloatArray
from common.errors import SinkServeError
from common.text.tools.values import ToolCall
from runtime_service.decoding.delta import Delta
from runtime_service.decoding.reply import Reply
from runtime_service.decoding.sampling import Sampled, Tokens, sample
from runtime_service.decoding.speculation import Speculation
from runtime_service.decoding.token_history import TokenHistory
from runtime_service.domain.options import GenerationOptions
from runtime_service.domain.turn import FinishReason, Timing, Usage
from runtime_service.forms.masks import Wanted
from runtime_service.forms.matcher import Matcher
from runtime_service.scheduling.late import Late


def no_closing(_last: int | None) -> tuple[int, ...]:
    """The closing of a turn without a template."""
    return ()


@dataclass(frozen=True)
class Work:
    """A turn as the scheduler gets it. `prompt` is fed after what is pending; without a `reply` nothing follows.

    The first `recalled_tokens` of the prompt are those of turns that are read again.

    `matcher` says which tokens fit the form of the reply, if it has one.

    `closing_after` gives the template's tokens behind a reply whose last token it is told.
    """

    turn_id: str
    prompt: tuple[int, ...]
    options: GenerationOptions
    accepted_at: float
    reply: Reply | None
    closing_after: Callable[[int | None], tuple[int, ...]] = no_closing
    evicts: bool = True
    recalled_tokens: int = 0
    matcher: Matcher | None = None


@dataclass(frozen=True)
class Outcome:
    """How a turn ended; always its last event. `tokens` are what it added to the history, from position `start` on."""

    reason: FinishReason
    usage: Usage
    timing: Timing
    start: int
    tokens: tuple[int, ...] = ()
    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    stop_sequence: str = ""
    error: SinkServeError | None = None


class RunningTurn:
    """Life: `begin`, then `accept` after each step of the reply, then one of `finish`, `cancel`, `discard`, `fail`.

    `seen_from` is where the tokens behind the sinks begin that an engine was sent, if it gets them anew.
    """

    def __init__(self, work: Work, history: TokenHistory) -> None:
        self.work = work
        self.history = history
        self.start = history.length
        self.seen_from = 0
        self.late: Late | None = None
        """What waits for its mask; nothing is drafted meanwhile, nor is the matcher touched."""
        self._speculation = Speculation(history, work.options.speculated_tokens if work.reply else 0)
        self._generated = 0
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._began_at: float | None = None
        self._fed_at: float | None = None
        self._first_at: float | None = None

    @property
    def left(self) -> int:
        """Tokens that the reply may still have."""
        return self.work.options.max_new_tokens - self._generated

    def begin(self, now: float) -> bool:
        """Put the prompt behind the history; False: it does not fit a session that does not evict."""
        self._began_at = now
        if self._lacks_room(len(self.work.prompt) + (self.work.reply is not None)):
            return False
        self.history.extend(self.work.prompt)
        return True

    def draft(self, most: int) -> tuple[int, ...]:
        """At most `most` tokens to feed on trial, behind the one that is left to feed; they may not be what comes."""
        if self.late is not None:
            return ()
        room = self.left if self.work.evicts else min(self.left, self.history.window.capacity - self.history.length)
        draft, matcher = self._speculation.draft(min(most, room - 1)), self.work.matcher
        return draft if matcher is None or not draft else draft[: matcher.fitting(draft)]

    def masks_wanted(self, draft: tuple[int, ...], fed: int) -> Wanted | None:
        """The masks that are needed after a step that feeds `fed` tokens and `draft`, if any are."""
        matcher = self.work.matcher
        return Wanted(matcher, draft) if matcher is not None and fed == self.history.unfed else None

    def accept(
        self, logits: FloatArray, draft: tuple[int, ...], now: float, allowed: Sequence[Tokens] = ()
    ) -> Iterator[tuple[Delta | None, FinishReason | None]]:
        """Sample after a step that fed all that was left, and `draft`: as far as that is right, and one token more.

        `logits` are [1 + draft, vocabulary]; in a reply with a form, `allowed` has the tokens that fit at each of them.
        Gives, for each token, what to send, and the reason to end if any.
        """
        history, right = self.history, 0
        if self.work.reply is None:
            self._fed_at = now
            yield None, FinishReason.INPUT_ONLY
            return
        for row, guess, some in zip_longest(logits, draft, allowed):
            sampled = sample(row, self.work.options, history.length, history.counts, some)
            delta, reason = self.accept_sampled(sampled, now)
            right += sampled.token_id == guess
            if reason is not None or sampled.token_id != guess:
                break
            history.advance(1)
            yield delta, None
        self._speculation.note(len(draft), right)
        yield delta, reason

    def accept_sampled(self, sampled: Sampled, now: float) -> tuple[Delta, FinishReason | None]:
        """Take the next token of the reply; returns what to send, and the reason to end if any."""
        reply = self.work.reply
        assert reply is not None, "a turn without a reply has no tokens"
        self._fed_at = now if self._fed_at is None else self._fed_at
        self.history.append(sampled.token_id)
        self._generated += 1
        self._first_at = now if self._first_at is None else self._first_at
        delta = reply.push(sampled, is_last=self._fits_no_more(sampled.token_id))
        self._note(delta)
        if reply.finished is not None:
            return delta, reply.finished.reason
        return delta, FinishReason.CONTEXT_FULL if self._lacks_room(1) else None

    @property
    def misfit(self) -> SinkServeError | None:
        """Why the reply cannot go on in its form, if so."""
        return self.work.matcher.error if self.work.matcher is not None else None

    def let_go(self) -> bool:
        """Go on without a form where nobody asked for one: calls are read all the same. False: it was asked for."""
        options = self.work.options
        if options.response_format is not None or (options.tool_choice is not None and options.tool_choice.is_forced):
            return False
        self.work = replace(self.work, matcher=None)
        return True

    def _fits_no_more(self, token_id: int) -> bool:
        """Whether the reply is whole with this token, in its form."""
        matcher = self.work.matcher
        if matcher is None:
            return False
        matcher.accept(token_id)
        return matcher.is_over

    def flush(self) -> Delta | None:
        """What the reply still held back."""
        delta = self.work.reply.flush() if self.work.reply else None
        if delta is not None:
            self._note(delta)
        return delta

    def _note(self, delta: Delta) -> None:
        self._text.append(delta.text)
        self._reasoning.append(delta.reasoning)

    def finish(self, reason: FinishReason, now: float) -> Outcome:
        """End with everything that was fed and accepted, and the closing pending behind it."""
        prompt_tokens = min(self.history.length - self.start, len(self.work.prompt))
        if prompt_tokens:
            self.history.extend(self._closing())
        finished = self.work.reply.finished if self.work.reply else None
        return self._outcome(reason, now, prompt_tokens, stop_sequence=finished.stop_sequence if finished else "")

    def cancel(self, now: float) -> Outcome:
        """End now: what was fed or accepted stays, the rest of the prompt is dropped."""
        if not self._generated:
            self.history.truncate(max(self.start, self.history.fed))
        return self.finish(FinishReason.CANCELLED, now)

    def discard(self, now: float, fed: int) -> Outcome:
        """End as if the turn had not been. The cache, fed up to `fed`, has been taken back to the start, or is lost."""
        self.history.truncate(self.start)
        self._text.clear()
        self._reasoning.clear()
        outcome = self._outcome(FinishReason.CANCELLED, now, max(0, min(fed - self.start, len(self.work.prompt))))
        return replace(outcome, tool_calls=())

    def fail(self, error: SinkServeError, now: float) -> Outcome:
        """End as if the turn had not been, whatever the history has become: it is not looked at."""
        return Outcome(
            reason=FinishReason.ERROR,
            usage=Usage(
                generated_tokens=self._generated,
                position=self.start,
                drafted_tokens=self._speculation.drafted,
                accepted_tokens=self._speculation.accepted,
            ),
            timing=self._timing(now),
            start=self.start,
            error=error,
        )

    def _closing(self) -> tuple[int, ...]:
        if self.work.reply is None:
            return ()
        last = self.history.tokens(self.history.length - 1)[0] if self._generated else None
        closing = self.work.closing_after(last)
        return () if self._lacks_room(len(closing)) else closing

    def _lacks_room(self, tokens: int) -> bool:
        return not self.work.evicts and self.history.length + tokens > self.history.window.capacity

    def _outcome(
        self,
        reason: FinishReason,
        now: float,
        prompt_tokens: int,
        *,
        stop_sequence: str = "",
    ) -> Outcome:
        history = self.history
        usage = Usage(
            prompt_tokens=prompt_tokens,
            generated_tokens=self._generated,
            position=history.length,
            drafted_tokens=self._speculation.drafted,
            accepted_tokens=self._speculation.accepted,
            recalled_tokens=min(prompt_tokens, self.work.recalled_tokens),
            reasoning_tokens=self.work.reply.reasoning_tokens if self.work.reply else 0,
            window_start_position=max(self.seen_from, history.window.start(history.length)),
        )
        return Outcome(
            reason=reason,
            usage=usage,
            timing=self._timing(now),
            start=self.start,
            tokens=history.tokens(self.start),
            text="".join(self._text),
            reasoning="".join(self._reasoning),
            tool_calls=self.work.reply.calls if self.work.reply else (),
            stop_sequence=stop_sequence,
        )

    def _timing(self, now: float) -> Timing:
        began = self._began_at if self._began_at is not None else now
        fed = self._fed_at if self._fed_at is not None else now
        first = self._first_at
        return Timing(
            queue_s=began - self.work.accepted_at,
            prefill_s=max(0.0, fed - began),
            first_token_s=first - self.work.accepted_at if first is not None else 0.0,
            decode_s=now - first if first is not None else 0.0,
        )
