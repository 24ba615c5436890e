"""How turns end: cancelled, full, without a reply, by a fault, or with their session; and what is left of them."""

from __future__ import annotations

import pytest

from common.engine.engine import Feed
from common.errors import Internal, Reason
from common.window import Geometry
from runtime_service.domain.turn import FinishReason
from runtime_service.scheduling.running_turn import Outcome
from runtime_service.scheduling.scheduler_events import TurnAdmitted
from tests.unit.runtime_service.scheduling.driver import Driver

SMALL = Geometry(sinks=2, window=6, chunk=4, slots=2)


def test_a_cancel_takes_effect_before_the_next_step() -> None:
    driver = Driver(SMALL)
    talker = driver.talker()
    turn_id = driver.submit(talker, (1, 2), closing=(3, 4))
    for _ in range(3):
        driver.scheduler.step()
    driver.scheduler.cancel_turn(talker.tenant, turn_id, discard=False)
    steps = len(driver.engine.steps)
    driver.finish()
    assert len(driver.engine.steps) == steps
    outcome = talker.outcomes[0]
    assert outcome.reason is FinishReason.CANCELLED
    assert outcome.tokens == (1, 2, *talker.said, 3, 4)
    assert len(talker.said) == 3


def test_a_cancel_while_the_input_is_fed_keeps_what_was_fed() -> None:
    driver = Driver(SMALL)
    talker = driver.talker()
    turn_id = driver.submit(talker, tuple(range(10, 30)), closing=(3,))
    driver.scheduler.step()
    driver.scheduler.cancel_turn(talker.tenant, turn_id, discard=False)
    assert talker.history == [10, 11, 12, 13, 3]  # a chunk
    assert talker.outcomes[0].usage.prompt_tokens == 4


def test_a_cancel_before_the_first_step_changes_nothing() -> None:
    driver = Driver(SMALL)
    talker = driver.talker(opening=(9,))
    turn_id = driver.submit(talker, (1, 2), closing=(3,))
    driver.scheduler.cancel_turn(talker.tenant, turn_id, discard=False)
    driver.finish()
    assert talker.history == [9]
    assert not driver.engine.steps


def test_the_closing_is_pending_and_not_fed() -> None:
    driver = Driver(SMALL)
    talker = driver.talker()
    driver.submit(talker, (1,), closing=(3, 4))
    driver.finish()
    assert talker.history[-2:] == [3, 4]
    assert talker.tenant.history.unfed == 3  # the last token of the reply too


def test_an_end_token_that_was_generated_is_not_doubled() -> None:
    driver = Driver(SMALL)
    twin, talker = driver.talker(), driver.talker()
    driver.submit(twin, (1,))
    driver.finish()
    end = twin.said[2]
    driver.submit(talker, (1,), closing=(end, 4), ends=frozenset({end}))
    driver.finish()
    assert talker.outcomes[0].reason is FinishReason.STOP
    first = twin.said.index(end)
    assert talker.history == [1, *twin.said[: first + 1], 4]


def test_input_without_a_reply_is_fed_and_nothing_more() -> None:
    driver = Driver(SMALL)
    talker = driver.talker()
    driver.submit(talker, tuple(range(9)), reply=False, closing=(3,))
    driver.finish()
    assert talker.outcomes[0].reason is FinishReason.INPUT_ONLY
    assert talker.history == list(range(9))
    assert talker.tenant.history.unfed == 0


def test_a_session_that_does_not_evict_ends_when_it_is_full() -> None:
    driver = Driver(SMALL)
    talker = driver.talker()
    driver.submit(talker, (1, 2, 3), evicts=False)
    driver.finish()
    assert talker.outcomes[0].reason is FinishReason.CONTEXT_FULL
    assert len(talker.history) == 8
    assert talker.outcomes[0].usage.evicted_tokens == 0
    driver.submit(talker, (1,), evicts=False)
    driver.finish()
    assert talker.outcomes[1].reason is FinishReason.CONTEXT_FULL
    assert len(talker.history) == 8


def test_a_fault_of_the_engine_ends_the_turns_of_that_step_alone() -> None:
    broken = [False]

    def break_slot_1(feeds: tuple[Feed, ...]) -> None:
        if broken[0] and any(feed.slot == 1 and feed.tokens for feed in feeds):
            raise RuntimeError("out of luck")

    driver = Driver(SMALL, before_step=break_slot_1)
    talkers = [driver.talker() for _ in range(2)]
    for talker in talkers:
        driver.submit(talker, (1, 2))
        driver.finish()
    broken[0] = True
    driver.submit(talkers[1], (5,))
    driver.finish()
    outcome = talkers[1].outcomes[-1]
    assert outcome.reason is FinishReason.ERROR
    assert isinstance(outcome.error, Internal)
    assert "luck" not in outcome.error.message
    broken[0] = False
    for talker in talkers:
        driver.submit(talker, (5,))
        driver.finish()
    assert talkers[0].history == talkers[1].history


def test_logits_that_are_not_finite_end_that_turn_alone_and_the_session_goes_on() -> None:
    driver = Driver(SMALL, poison=frozenset({63}))
    talkers = [driver.talker() for _ in range(2)]
    for talker, token in zip(talkers, (63, 5), strict=True):
        driver.submit(talker, (1, token))
    driver.finish()
    sick = talkers[0].outcomes[0].error
    assert sick is not None
    assert sick.reason is Reason.NON_FINITE_LOGITS
    assert talkers[1].outcomes[0].reason is FinishReason.LENGTH
    driver.submit(talkers[0], (1, 5))
    driver.finish()
    assert talkers[0].history == talkers[1].history


def test_a_session_that_leaves_frees_its_slot_and_ends_its_turn() -> None:
    driver = Driver(SMALL)
    talkers = [driver.talker() for _ in range(3)]
    for talker in talkers:
        driver.submit(talker, (1, 2))
    driver.scheduler.step()
    driver.scheduler.release_tenant(talkers[0].tenant, keep=False)
    assert talkers[0].outcomes[0].reason is FinishReason.CANCELLED
    driver.scheduler.step()
    assert TurnAdmitted() in talkers[2].events


def test_a_history_that_comes_too_late_is_ignored() -> None:
    driver = Driver(SMALL, parked_bytes=0)
    talkers = [driver.talker() for _ in range(3)]
    for talker in talkers:
        driver.submit(talker, tuple(range(20)))
        driver.finish()
    turn_id = driver.submit(talkers[0], (1,))
    driver.scheduler.step()
    driver.scheduler.cancel_turn(talkers[0].tenant, turn_id, discard=False)
    driver.scheduler.refill(talkers[0].tenant, [], 0, talkers[0].history)
    driver.submit(talkers[0], (1,))
    driver.finish()
    assert isinstance(talkers[0].events[-1], Outcome)


@pytest.mark.parametrize("reply", [True, False])
def test_times_add_up(reply: bool) -> None:
    driver = Driver(SMALL)
    talker = driver.talker()
    driver.submit(talker, tuple(range(9)), reply=reply)
    driver.finish()
    timing = talker.outcomes[0].timing
    assert timing.queue_s > 0
    assert timing.prefill_s > 0
    assert (timing.first_token_s >= timing.queue_s + timing.prefill_s) is reply
    assert (timing.decode_s > 0) is reply
