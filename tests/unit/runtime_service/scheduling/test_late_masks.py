"""A reply whose mask takes long waits alone: others go on, it can be cancelled, and it says the same in the end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from threading import Event

import pytest

from common.errors import DeadlineExceeded, Reason, ResourceExhausted
from runtime_service.decoding.sampling import Tokens
from runtime_service.domain.options import GenerationOptions
from runtime_service.domain.turn import FinishReason
from runtime_service.forms import masks
from runtime_service.forms.masks import Masks, Wanted, find
from runtime_service.scheduling.late import QUEUED
from runtime_service.scheduling.running_turn import Outcome
from tests.unit.runtime_service.forms.replies import PADDED, matcher
from tests.unit.runtime_service.scheduling.driver import GREEDY, Talker
from tests.unit.runtime_service.scheduling.test_scheduler_forms import (
    ASKED,
    ENDS,
    GEOMETRY,
    PROMPT,
    SAMPLED,
    FormDriver,
    submit,
    text_of_forms,
)

SHORT = replace(GREEDY, max_new_tokens=9)


class LateDriver(FormDriver):
    """Masks of the first talker are found when it is told so; its time stands still, so that steps wait for nothing."""

    most_s = 2.0

    def __init__(self, *, simple: bool = False, parked_bytes: int = 1 << 20) -> None:
        self.now, self.opened, self.first = 0.0, Event(), matcher(ASKED)
        super().__init__(GEOMETRY, vocabulary=PADDED, simple=simple, parked_bytes=parked_bytes)
        self.text = text_of_forms()
        self.scheduler.masks = Masks(self.clock, self._find)

    def clock(self) -> float:
        return self.now

    def _find(self, wanted: Wanted) -> list[Tokens]:
        if wanted.matcher is self.first:
            assert self.opened.wait(60)
        return find(wanted)

    def slow(self, options: GenerationOptions = SAMPLED) -> Talker:
        talker = self.talker()
        self.submit(talker, PROMPT, options=options, matcher=self.first, ends=ENDS, closing=(4,))
        return talker

    def until_only_the_slow_one_is_left(self, *others: Talker) -> None:
        while not all(other.outcomes for other in others):
            self.step()

    def open_for_one_mask(self, talker: Talker) -> None:
        late = talker.tenant.running.late
        assert late is not None
        self.opened.set()
        late.mask.future.result()
        self.opened.clear()


@pytest.fixture
def made() -> Iterator[LateDriver]:
    driver = LateDriver()
    yield driver
    driver.opened.set()


def punctual(options: GenerationOptions = SAMPLED) -> Outcome:
    driver = LateDriver()
    driver.opened.set()
    talker = driver.slow(options)
    driver.finish()
    return talker.outcomes[0]


def test_others_go_on_with_a_form_and_without_one(made: LateDriver) -> None:
    slow, formed, plain = made.slow(), submit(made, SAMPLED), submit(made, SHORT)
    made.until_only_the_slow_one_is_left(formed, plain)
    assert slow.said == []
    assert formed.outcomes[0].reason is FinishReason.STOP
    made.opened.set()
    made.finish()
    assert slow.outcomes[0].tokens == punctual().tokens
    assert made.scheduler.masks.late > 0


def test_with_nobody_else_there_is_nothing_to_do_until_the_mask_comes(made: LateDriver) -> None:
    slow = made.slow()
    while made.step():
        pass
    made.open_for_one_mask(slow)
    assert made.step()
    assert len(slow.said) == 1


def test_its_turn_is_cancelled_meanwhile(made: LateDriver) -> None:
    slow, plain = made.slow(), submit(made, SHORT)
    made.until_only_the_slow_one_is_left(plain)
    made.scheduler.cancel_turn(slow.tenant, slow.tenant.running.work.turn_id, discard=False)
    assert slow.outcomes[0].reason is FinishReason.CANCELLED
    made.submit(slow, PROMPT, options=SHORT)
    made.finish()
    assert slow.outcomes[1].usage.generated_tokens == 9


def test_a_mask_that_takes_too_long_ends_its_turn_alone(made: LateDriver) -> None:
    slow, plain = made.slow(), submit(made, SHORT)
    made.until_only_the_slow_one_is_left(plain)
    assert made.scheduler.due_s == made.most_s
    made.now += made.most_s
    assert made.scheduler.due_s == 0
    assert made.step()
    assert isinstance(error := slow.outcomes[0].error, DeadlineExceeded)
    assert error.reason is Reason.FORM_TOO_SLOW
    assert error.message.startswith("turn.generation.response_format.json_schema took more than 2 s")
    made.submit(slow, PROMPT, options=SHORT)
    made.finish()
    assert slow.outcomes[1].usage.generated_tokens == 9


def test_who_waits_for_a_thread_that_others_have_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "MOST_AT_ONCE", 1)
    made = LateDriver()
    slow = made.slow()
    made.step()
    behind, cancelled = submit(made, SAMPLED), submit(made, SAMPLED)
    while made.step():
        pass
    waiting = [each.tenant.running.late for each in (behind, cancelled)]
    made.scheduler.cancel_turn(cancelled.tenant, cancelled.tenant.running.work.turn_id, discard=False)
    made.now += made.most_s
    assert made.step()
    assert (len(slow.outcomes), len(behind.outcomes)) == (1, 0)
    made.now += QUEUED * made.most_s
    assert made.step()
    assert isinstance(error := behind.outcomes[0].error, ResourceExhausted)
    assert error.reason is Reason.CAPACITY_EXHAUSTED
    made.opened.set()
    assert all(late is not None and late.mask.future.cancelled() for late in waiting)


def test_a_form_that_nobody_asked_for_is_let_go(made: LateDriver) -> None:
    slow = made.slow(SHORT)
    while made.step():
        pass
    made.now += made.most_s
    made.finish()
    assert slow.outcomes[0].usage.generated_tokens == 9  # those that the driver expects of a reply without a form


@pytest.mark.parametrize("parked_bytes", [0, 1 << 20])
def test_it_loses_its_slot_meanwhile_and_says_the_same(parked_bytes: int) -> None:
    made = LateDriver(parked_bytes=parked_bytes)
    slow = made.slow()
    while made.step():
        pass
    made.scheduler.pause(slow.tenant, paused=True)
    others = [submit(made, SHORT) for _ in range(4)]
    made.until_only_the_slow_one_is_left(*others)
    made.open_for_one_mask(slow)
    assert not made.step()  # it is paused
    made.opened.set()
    made.scheduler.pause(slow.tenant, paused=False)
    made.finish()
    assert slow.outcomes[0].tokens == punctual().tokens


def test_its_cache_comes_back_before_its_mask_does() -> None:
    made = LateDriver(parked_bytes=0)
    slow = made.slow()
    while made.step():
        pass
    made.scheduler.pause(slow.tenant, paused=True)
    made.until_only_the_slow_one_is_left(*[submit(made, SHORT) for _ in range(4)])
    made.scheduler.pause(slow.tenant, paused=False)
    while made.step() or slow.hungry:
        if slow.hungry:
            made.feed_hungry(slow)
    assert slow.said == []
    made.opened.set()
    made.finish()
    assert slow.outcomes[0].tokens == punctual().tokens


def test_drafts_whose_masks_are_late_change_nothing() -> None:
    options = replace(SAMPLED, temperature=0.05, speculated_tokens=15)
    made = LateDriver(simple=True)
    slow, plain = made.slow(options), submit(made, replace(GREEDY, max_new_tokens=400))
    drafted = 0
    while not slow.outcomes:
        made.step()
        if slow.tenant.run is not None and (late := slow.tenant.run.late) is not None:
            drafted += len(late.mask.wanted.draft)
            made.step()  # others write rows where those of the draft were
            made.open_for_one_mask(slow)
    made.finish()
    alone = LateDriver(simple=True)
    alone.opened.set()
    talker = alone.slow(replace(options, speculated_tokens=0))
    alone.finish()
    assert slow.outcomes[0].tokens == talker.outcomes[0].tokens
    assert drafted > 0
    assert plain.outcomes[0].usage.generated_tokens == 400
