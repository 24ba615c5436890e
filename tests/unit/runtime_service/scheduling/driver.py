"""Drives schedulers step by step over what is not a model, and knows what every session ought to say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from common.engine.engine import Feed, SlotState
from common.window import Geometry, SessionWindow
from runtime_service.decoding.delta import Delta
from runtime_service.decoding.reply import Reply
from runtime_service.decoding.sampling import sample
from runtime_service.decoding.text import Text
from runtime_service.decoding.token_history import TokenHistory
from runtime_service.domain.options import GenerationOptions
from runtime_service.domain.turn import FinishReason
from runtime_service.forms.matcher import Matcher
from runtime_service.scheduling.limits import Limits
from runtime_service.scheduling.running_turn import Outcome, Work
from runtime_service.scheduling.scheduler import Scheduler
from runtime_service.scheduling.scheduler_events import Listener, NeedsHistory, SchedulerEvent, TurnAdmitted
from runtime_service.scheduling.slots import Tenant
from runtime_service.scheduling.turn_scheduler import TurnScheduler
from tests.fakes.engine import FakeEngine, expected_logits
from tests.samples.whole_manifests import make_manifest

VOCABULARY = 64
GREEDY = GenerationOptions(max_new_tokens=8, temperature=0.0)


@dataclass(eq=False)
class Talker:
    """A session: its tenant, its whole history as it ought to be, and what came of its turns."""

    tenant: Tenant
    history: list[int] = field(default_factory=list)
    events: list[SchedulerEvent] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    hungry: int = 0

    @property
    def said(self) -> list[int]:
        """Tokens that were told of so far."""
        return [token for event in self.events if isinstance(event, Delta) for token in event.token_ids]


class Stage:
    """`step` until nothing is left; listeners keep what they hear, and outcomes are checked as they come."""

    scheduler: TurnScheduler

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.text = Text(None, make_manifest(geometry))
        self.ended: list[Talker] = []
        self._ticks = count(1)
        self._turns = count(1)
        self._talkers: dict[int, Talker] = {}
        self._options: dict[int, GenerationOptions] = {}

    def clock(self) -> float:
        return float(next(self._ticks))

    def expected(
        self, before: list[int], window: SessionWindow, generated: int, options: GenerationOptions
    ) -> list[int]:
        """What a session with `before` behind it says next, as far as it came."""
        raise NotImplementedError

    def talker(self, window: SessionWindow | None = None, opening: tuple[int, ...] = ()) -> Talker:
        window = window or SessionWindow(self.geometry.sinks, self.geometry.window)
        return Talker(Tenant("t", TokenHistory(window, opening)), list(opening))

    def submit(
        self,
        talker: Talker,
        prompt: tuple[int, ...],
        *,
        options: GenerationOptions = GREEDY,
        reply: bool = True,
        closing: tuple[int, ...] = (),
        evicts: bool = True,
        ends: frozenset[int] = frozenset(),
        matcher: Matcher | None = None,
    ) -> str:
        work = Work(
            turn_id=f"turn-{next(self._turns)}",
            prompt=prompt,
            options=options,
            accepted_at=0.0,
            reply=Reply(self.text, options, ends) if reply else None,
            closing_after=lambda last: closing[1:] if closing and last == closing[0] else closing,
            evicts=evicts,
            matcher=matcher,
        )
        self.scheduler.submit(talker.tenant, work, talker.events.append)
        self._talkers[id(talker.events)] = talker
        self._options[id(talker.events)] = options
        return work.turn_id

    def feed_hungry(self, talker: Talker) -> None:
        start = len(talker.history) - talker.hungry
        sinks = talker.history[: talker.tenant.history.window.sinks]
        self.scheduler.refill(talker.tenant, sinks, start, talker.history[start:])
        talker.hungry = 0

    def step(self) -> bool:
        """Let one thing happen; False: nothing did."""
        return self.scheduler.step()

    def finish(self) -> None:
        """Step until nothing is left, giving sessions the history that they ask for."""
        while True:
            worked = self.step()
            hungry = [talker for talker in self._talkers.values() if talker.hungry]
            for talker in hungry:
                self.feed_hungry(talker)
            if not worked and not hungry and self.scheduler.due_s is None:
                return

    def _hear(self, listener: Listener, event: SchedulerEvent) -> None:
        listener(event)
        talker = self._talkers[id(listener.__self__)]  # type: ignore[attr-defined]
        if isinstance(event, NeedsHistory):
            talker.hungry = event.tokens
        elif isinstance(event, Outcome):
            talker.hungry = 0
            self.ended.append(talker)
            self._check(talker, event)
        else:
            assert isinstance(event, (TurnAdmitted, Delta))

    def _check(self, talker: Talker, outcome: Outcome) -> None:
        """What was generated is what a session alone would have said, and positions add up."""
        assert outcome.start == len(talker.history)
        prompt = outcome.usage.prompt_tokens if outcome.tokens else 0
        end = prompt + (outcome.usage.generated_tokens if outcome.tokens else 0)
        generated = list(outcome.tokens[prompt:end])
        before = [*talker.history, *outcome.tokens[:prompt]]
        window = talker.tenant.history.window
        if generated:
            options = self._options[id(talker.events)]
            assert generated == self.expected(before, window, len(generated), options)
        talker.history += outcome.tokens
        assert outcome.usage.position == len(talker.history) == talker.tenant.history.length
        self._check_view(window, outcome)
        talker.outcomes.append(outcome)

    def _check_view(self, window: SessionWindow, outcome: Outcome) -> None:
        """Where the window begins that the newest token sees."""
        if outcome.reason is not FinishReason.ERROR:
            assert outcome.usage.window_start_position == max(window.sinks, outcome.usage.position - window.window)


class Driver(Stage):
    """A scheduler over the fake engine."""

    scheduler: Scheduler
    most_s = 1e9
    """What a mask may take, by a clock that ticks whenever it is asked."""

    def __init__(
        self,
        geometry: Geometry,
        *,
        slot_multiple: int = 1,
        draft_rows: int = 16,
        longest: int = 0,
        parked_bytes: int = 1 << 20,
        max_replay_tokens: int = 1 << 20,
        before_step: Callable[[tuple[Feed, ...]], None] | None = None,
        poison: frozenset[int] = frozenset(),
        vocabulary: int = VOCABULARY,
        simple: bool = False,
        spill: Callable[[Tenant, SlotState], bool] = lambda *_: False,
    ) -> None:
        super().__init__(geometry)
        self.engine = FakeEngine(
            geometry,
            vocabulary=vocabulary,
            slot_multiple=slot_multiple,
            draft_rows=draft_rows,
            longest=longest,
            simple=simple,
            poison=poison,
            before_step=before_step,
        )
        limits = Limits(2, max_replay_tokens, parked_bytes, stall_s=0.5, slow_form_s=self.most_s)
        self.scheduler = Scheduler(self.engine, limits, self.clock, self._hear, spill)

    def expected(
        self, before: list[int], window: SessionWindow, generated: int, options: GenerationOptions
    ) -> list[int]:
        """One token at a time, penalties and all."""
        stream, engine = list(before), self.engine
        for _ in range(generated):
            sinks = min(window.sinks, len(stream))
            held = Counter([*stream[:sinks], *stream[max(sinks, len(stream) - window.window) :]])
            logits = expected_logits(stream, window, engine.vocabulary_size, simple=engine.simple)
            stream.append(sample(logits, options, len(stream), held).token_id)
        return stream[len(before) :]
