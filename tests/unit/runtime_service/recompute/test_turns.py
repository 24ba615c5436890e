"""How turns wait, pause and end over an engine that keeps no cache."""

from __future__ import annotations

from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from common.errors import Internal, Reason, ResourceExhausted
from common.window import Geometry
from runtime_service.domain.turn import FinishReason
from runtime_service.recompute.token_generator import Completed
from runtime_service.scheduling.running_turn import Outcome
from runtime_service.scheduling.scheduler_events import NeedsHistory, TurnAdmitted
from tests.fakes.scripted_generator import next_token
from tests.unit.runtime_service.recompute.recomputing import Recomputing
from tests.unit.runtime_service.scheduling.driver import GREEDY

LONG = replace(GREEDY, max_new_tokens=30)


def test_a_turn_waits_while_every_slot_is_busy_and_turns_begin_in_order() -> None:
    stage = Recomputing()
    talkers = [stage.talker() for _ in range(4)]
    for talker in talkers:
        stage.submit(talker, (1, 2))
    stage.step()
    assert [TurnAdmitted() in talker.events for talker in talkers] == [True, True, False, False]
    turn = talkers[0].tenant.run
    assert turn is not None
    stage.scheduler.cancel_turn(talkers[0].tenant, turn.work.turn_id, discard=False)
    stage.step()
    assert [TurnAdmitted() in talker.events for talker in talkers] == [True, True, True, False]
    stage.finish()
    assert [talker.outcomes[0].reason for talker in talkers[1:]] == [FinishReason.LENGTH] * 3


def test_one_who_waits_for_its_history_holds_up_nobody() -> None:
    stage = Recomputing(Geometry(sinks=2, window=6, chunk=1, slots=1))
    hungry, other = stage.stored(list(range(20))), stage.talker()
    for talker in (hungry, other):
        stage.submit(talker, (1,))
    for _ in range(20):
        stage.step()
    assert other.outcomes[0].reason is FinishReason.LENGTH
    assert hungry.events == [NeedsHistory(6)]
    stage.finish()
    assert hungry.outcomes[0].reason is FinishReason.LENGTH


def test_a_cancel_keeps_what_was_told_and_nothing_that_comes_later() -> None:
    stage = Recomputing()
    talker = stage.talker()
    turn_id = stage.submit(talker, (1, 2), closing=(3, 4))
    for _ in range(4):
        stage.step()
    stage.scheduler.cancel_turn(talker.tenant, turn_id, discard=False)
    said = list(talker.said)
    stage.finish()
    assert talker.said == said
    assert len(said) == 3
    assert talker.outcomes[0].reason is FinishReason.CANCELLED
    assert talker.outcomes[0].tokens == (1, 2, *said, 3, 4)
    assert stage.generator.started[0].aborted


def test_a_cancel_before_the_first_token_keeps_the_input_that_was_sent() -> None:
    stage = Recomputing()
    talker = stage.talker()
    turn_id = stage.submit(talker, (1, 2), closing=(3,))
    stage.scheduler.step()
    stage.scheduler.cancel_turn(talker.tenant, turn_id, discard=False)
    assert talker.history == [1, 2, 3]


def test_a_cancel_before_the_turn_begins_changes_nothing() -> None:
    stage = Recomputing()
    talker = stage.talker(opening=(9,))
    turn_id = stage.submit(talker, (1, 2), closing=(3,))
    stage.scheduler.cancel_turn(talker.tenant, turn_id, discard=False)
    stage.finish()
    assert talker.history == [9]
    assert not stage.generator.started


def test_a_paused_reply_goes_on_where_it_was() -> None:
    stage = Recomputing()
    paused, other = stage.talker(), stage.talker()
    for talker in (paused, other):
        stage.submit(talker, (1,), options=LONG)
    stage.step()
    stage.scheduler.pause(paused.tenant, paused=True)
    stage.finish()
    assert (len(paused.said), len(other.said)) == (0, 30)
    assert len(stage.generator.started) > 2
    stage.scheduler.pause(paused.tenant, paused=False)
    stage.finish()
    assert paused.history == other.history


def test_a_session_that_does_not_evict_ends_when_it_is_full() -> None:
    stage = Recomputing()
    talker = stage.talker()
    for _ in range(2):
        stage.submit(talker, (1, 2, 3), evicts=False)
        stage.finish()
    assert [outcome.reason for outcome in talker.outcomes] == [FinishReason.CONTEXT_FULL] * 2
    assert len(talker.history) == 8
    assert talker.events.count(TurnAdmitted()) == 1


def test_a_token_that_ends_the_reply_ends_the_generation() -> None:
    stage = Recomputing()
    end = next_token((1, next_token((1,))))
    talker = stage.talker()
    stage.submit(talker, (1,), ends=frozenset({end}))
    stage.finish()
    assert talker.outcomes[0].reason is FinishReason.STOP
    assert talker.said[-1] == end
    assert stage.generator.started[0].aborted


def test_tokens_that_came_behind_the_end_of_the_reply_are_not_looked_at() -> None:
    stage = Recomputing()
    talker = stage.talker()
    end = next_token((1,))
    stage.submit(talker, (1,), ends=frozenset({end}))
    stage.scheduler.step()
    for _ in range(3):
        stage.generator.tick()
    with capture_logs() as logged:
        stage.finish()
    assert talker.said == [end]
    assert not logged


def test_a_generation_that_breaks_ends_its_turn_with_the_error_and_the_session_goes_on() -> None:
    stage = Recomputing()
    talker, twin = stage.talker(), stage.talker()
    stage.submit(talker, (1,))
    for _ in range(3):
        stage.step()
    stage.generator.break_all(ResourceExhausted(Reason.OUT_OF_MEMORY, "full"))
    stage.finish()
    assert talker.outcomes[0].error is not None
    assert talker.outcomes[0].error.reason is Reason.OUT_OF_MEMORY
    for each in (talker, twin):
        stage.submit(each, (5,))
        stage.finish()
    assert talker.history == twin.history


def test_an_engine_that_refuses_a_prompt_fails_that_turn_alone() -> None:
    stage = Recomputing()
    stage.generator.refusal = RuntimeError("secret")
    talkers = [stage.talker(), stage.talker()]
    for talker in talkers:
        stage.submit(talker, (1,))
    stage.finish()
    error = talkers[0].outcomes[0].error
    assert isinstance(error, Internal)
    assert "secret" not in error.message
    assert talkers[1].outcomes[0].reason is FinishReason.LENGTH


def test_an_engine_that_gives_no_token_is_not_asked_for_ever() -> None:
    stage = Recomputing()
    talker = stage.talker()
    stage.submit(talker, (1,))
    stage.scheduler.step()
    stage.generator.started[0].end(Completed())
    stage.finish()
    assert talker.outcomes[0].reason is FinishReason.ERROR
    assert len(stage.generator.started) == 1


def test_all_turns_fail_at_once_whether_they_run_or_wait() -> None:
    stage = Recomputing()
    talkers = [stage.talker() for _ in range(3)]
    for talker in talkers:
        stage.submit(talker, (1,))
    stage.step()
    stage.scheduler.fail_all_turns(Internal(Reason.INTERNAL, "bad luck"))
    assert [talker.outcomes[0].reason for talker in talkers] == [FinishReason.ERROR] * 3
    assert not stage.generator.running
    assert not stage.scheduler.step()


def test_a_session_that_leaves_frees_its_slot_and_ends_its_turn() -> None:
    stage = Recomputing()
    talkers = [stage.talker() for _ in range(3)]
    for talker in talkers:
        stage.submit(talker, (1, 2))
    stage.step()
    stage.scheduler.release_tenant(talkers[0].tenant, keep=False)
    stage.scheduler.release_tenant(talkers[0].tenant, keep=False)
    assert talkers[0].outcomes[0].reason is FinishReason.CANCELLED
    stage.step()
    assert TurnAdmitted() in talkers[2].events


def test_a_history_that_comes_too_late_is_ignored() -> None:
    stage = Recomputing()
    talker = stage.stored(list(range(20)))
    turn_id = stage.submit(talker, (1,))
    stage.step()
    stage.scheduler.cancel_turn(talker.tenant, turn_id, discard=False)
    stage.scheduler.refill(talker.tenant, [], 0, list(range(20)))
    stage.submit(talker, (1,))
    stage.finish()
    assert isinstance(talker.events[-1], Outcome)
    assert talker.outcomes[-1].reason is FinishReason.LENGTH


def test_whatever_is_heard_wakes_the_thread() -> None:
    stage = Recomputing()
    stage.submit(stage.talker(), (1,))
    stage.scheduler.step()
    for told in range(1, GREEDY.max_new_tokens + 1):
        stage.generator.tick()
        assert stage.wakes == told


@pytest.mark.parametrize("reply", [True, False])
def test_times_add_up(reply: bool) -> None:
    stage = Recomputing()
    talker = stage.talker()
    stage.submit(talker, tuple(range(9)), reply=reply)
    stage.finish()
    timing = talker.outcomes[0].timing
    assert timing.queue_s > 0
    assert timing.prefill_s > 0
    assert (timing.first_token_s >= timing.queue_s + timing.prefill_s) is reply
    assert (timing.decode_s > 0) is reply
