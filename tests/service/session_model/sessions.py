"""What any session must be, in plain Python: which turns it has, what each said, what its clients may have heard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from common.window import SessionWindow
from runtime_service.decoding.delta import Delta
from runtime_service.decoding.text import Text
from runtime_service.domain.session import NewSession, Session
from runtime_service.domain.turn import FinishReason, Result, Turn, TurnRequest
from runtime_service.turns.events import EPOCH_BITS, Event, Opened, TurnFinished, TurnRejected, TurnStarted
from runtime_service.turns.run import MOST_CRASHES
from tests.fakes.engine import expected_greedy
from tests.service.runtime.runtime import VOCABULARY
from tests.service.session_model.view import Span, notice_of, oldest_visible, start_of

Kept = list[tuple[Turn, list[int]]]
_greedy: dict[tuple[tuple[int, ...], SessionWindow, int], list[int]] = {}


@dataclass(eq=False)
class ModelTurn:
    """A turn that was accepted in epoch `born`. `cancels` are all that was done to end it, by whether it was discarded.

    `stops` are how often its server stopped, died, or lost the session, since.
    """

    request: TurnRequest
    born: int
    cancels: set[bool] = field(default_factory=set)
    stops: int = 0
    result: Result | None = None

    def ends(self, result: Result) -> None:
        """Note how it ended; that never changes."""
        result = replace(result, error=None, text="", token_ids=())  # an event has no reply
        assert self.result in (None, result), "a turn ended twice"
        self.result = result

    @property
    def turn_id(self) -> str:
        return self.request.turn_id


@dataclass(eq=False)
class ModelSession:
    """A session that exists. `gone` are turns that a rewind dropped; `forked_from` names what it was forked of."""

    session_id: str
    asked: NewSession | None
    continues: bool
    expires: bool
    turns: list[ModelTurn] = field(default_factory=list)
    gone: list[ModelTurn] = field(default_factory=list)
    forked_from: tuple[str, str] | None = None
    heard: dict[int, Event] = field(default_factory=dict)
    epoch: int = 0

    @property
    def unfinished(self) -> list[ModelTurn]:
        """Those of which nobody has seen the end yet."""
        return [turn for turn in self.turns if turn.result is None]

    def find(self, turn_id: str) -> ModelTurn | None:
        return next((turn for turn in self.turns if turn.turn_id == turn_id), None)

    def cancel_all(self) -> None:
        for turn in self.unfinished:
            turn.cancels.add(False)

    def claimed(self, epoch: int) -> None:
        """Note that servers have taken it up to `epoch`: what runs stopped each time."""
        for turn in self.unfinished:
            turn.stops += epoch - self.epoch
        self.epoch = epoch

    def cut(self, behind: int) -> None:
        """Drop the turns after the first `behind`."""
        self.gone += self.turns[behind:]
        del self.turns[behind:]

    # What is kept

    def check_kept(self, session: Session, found: Kept, text: Text) -> None:
        """Every turn that was accepted is there once and in order, and what has ended ended as it must."""
        self.claimed(session.epoch)
        assert [turn.request for turn, _ in found] == [turn.request for turn in self.turns], self.session_id
        ended = [turn.result is not None for turn, _ in found]
        assert ended == sorted(ended, reverse=True), "a turn ended before another that came first"
        history, last, spans = list(session.opening), 0, list[Span]()
        for mine, (turn, tokens) in zip(self.turns, found, strict=True):
            if turn.result is None:
                assert mine.result is None, "a turn that had ended has not"
                continue
            mine.ends(turn.result)
            prompt = _prompt(mine.request, text)
            _check_end(mine, turn, len(prompt), kept=bool(tokens))
            if tokens:
                reply = greedy([*history, *prompt], session.window, turn.result.usage.generated_tokens)
                assert list(turn.result.token_ids) == reply
                assert tokens == [
                    *prompt[: turn.result.usage.prompt_tokens],
                    *reply,
                    *_closing(mine.request, reply, text),
                ]
            history += tokens
            spans.append(Span(turn.turn_id, range(len(history) - len(tokens), len(history))))
            _check_view(session, turn.result, spans)
            assert turn.result.usage.position == len(history)
            assert turn.result.started_sequence < turn.result.finished_sequence > last
            last = turn.result.finished_sequence
        assert (session.position, session.turns) == (len(history), sum(ended))
        assert session.last_sequence >= last
        window = session.window
        oldest = oldest_visible(window, len(history), spans)
        assert session.window_start_position == start_of(window, len(history))
        assert session.oldest_visible_turn == oldest

    # What is heard

    def check_heard(self, events: Sequence[Event]) -> None:
        """What one stream heard: of each turn in order, and what the turn said since it started last."""
        assert isinstance(events[0].body, Opened) if events else True
        for event in events:
            assert bool(event.sequence) == isinstance(event.body, TurnStarted | Delta | TurnFinished), event
            if event.sequence:
                self._note(event)
        for turn in (*self.turns, *self.gone):
            self._check_told(turn, [event for event in events if event.sequence and self._of(event) is turn])

    def _note(self, event: Event) -> None:
        """The same number always means the same event; only pieces of a reply may be joined otherwise."""
        before = self.heard.setdefault(event.sequence, event)
        if not isinstance(event.body, Delta):
            assert _bare(before) == _bare(event)

    def check_order(self) -> None:
        """By their numbers, all events of a session are turn after turn, in the order of the turns."""
        owners = [turn for turn, _ in groupby(self._of(event) for _, event in sorted(self.heard.items()))]
        known = [turn for turn in owners if turn is not None]
        assert len(known) == len(set(known)), "events of two turns are mixed"
        alive = [turn for turn in known if turn in self.turns]
        assert alive == sorted(alive, key=self.turns.index)

    def _of(self, event: Event) -> ModelTurn | None:
        """The turn of an event: of those with its id the last that had been accepted by then."""
        epoch = event.sequence >> EPOCH_BITS
        named = [turn for turn in (*self.turns, *self.gone) if turn.turn_id == event.turn_id and turn.born <= epoch]
        return max(named, key=lambda turn: turn.born, default=None)

    def _check_told(self, turn: ModelTurn, events: list[Event]) -> None:
        attempt, said, started = 0, list[int](), False
        for event in events:
            match event.body:
                case TurnStarted():
                    assert event.body.attempt >= attempt, "an earlier attempt came later"
                    attempt, said, started = event.body.attempt, [], True
                case Delta():
                    said += event.body.token_ids
                case TurnFinished(result):
                    turn.ends(result)
                    if started and True not in turn.cancels and result.reason is not FinishReason.ERROR:
                        assert len(said) == result.usage.generated_tokens
                    started = False


def rejections(events: Sequence[Event]) -> list[TurnRejected]:
    """Turns that were refused on a stream."""
    return [event.body for event in events if isinstance(event.body, TurnRejected)]


def greedy(history: list[int], window: SessionWindow, count: int) -> list[int]:
    """What a session says next."""
    key = tuple(history), window, count
    if key not in _greedy:
        _greedy[key] = expected_greedy(history, window, count, VOCABULARY)
    return _greedy[key]


def _bare(event: Event) -> Event:
    """Without its error, which is equal to itself only."""
    if isinstance(event.body, TurnFinished):
        return replace(event, body=replace(event.body, result=replace(event.body.result, error=None)))
    return event


def _check_end(mine: ModelTurn, turn: Turn, prompt: int, *, kept: bool) -> None:
    """It ended for a reason that there was, as whole as that says; `kept` if it added tokens."""
    assert turn.result is not None
    assert turn.attempt - 1 <= mine.stops, "it was started again although nothing stopped it"
    reason, usage = turn.result.reason, turn.result.usage
    whole = (usage.prompt_tokens, usage.generated_tokens)
    match reason:
        case FinishReason.ERROR:
            assert turn.attempt - turn.stops > MOST_CRASHES, turn.result.error
            assert not kept
        case FinishReason.CANCELLED:
            assert mine.cancels, "nobody cancelled it"
            assert False in mine.cancels if kept else True in mine.cancels or not usage.generated_tokens
            assert not (kept and usage.generated_tokens) or usage.prompt_tokens == prompt
        case FinishReason.INPUT_ONLY:
            assert mine.request.no_reply
            assert whole == (prompt, 0)
        case _:
            assert reason is FinishReason.LENGTH
            assert whole == (prompt, mine.request.generation.max_new_tokens)


def _check_view(session: Session, result: Result, spans: list[Span]) -> None:
    """What is told of what the model sees is what it sees."""
    window, usage = session.window, result.usage
    before, position = spans[-1].tokens.start, spans[-1].tokens.stop
    assert usage.window_start_position == start_of(window, position)
    assert usage.evicted_tokens == start_of(window, position) - start_of(window, before)
    assert usage.oldest_visible_turn == oldest_visible(window, position, spans)
    assert result.notice == (notice_of(window, before, position, spans) if session.notifies else None)


def _closing(request: TurnRequest, reply: list[int], text: Text) -> tuple[int, ...]:
    """What the template puts behind a reply."""
    framed = request.input.token_ids is None and not request.no_reply
    return text.closing_after(reply[-1] if reply else None) if framed else ()


def _prompt(request: TurnRequest, text: Text) -> list[int]:
    if request.input.token_ids is not None:
        return list(request.input.token_ids)
    assert request.input.text is not None
    return [*text.user(request.input.text), *(() if request.no_reply else text.assistant_before)]
