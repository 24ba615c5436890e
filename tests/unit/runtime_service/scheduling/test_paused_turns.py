"""Turns whose clients do not read: they are not fed, hold nothing that others need, and go on where they were."""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.engine.engine import SlotState
from common.window import Geometry
from runtime_service.domain.turn import FinishReason
from runtime_service.scheduling.scheduler_events import TurnAdmitted
from runtime_service.scheduling.slots import Tenant
from tests.unit.runtime_service.recompute.recomputing import Recomputing
from tests.unit.runtime_service.scheduling.driver import GREEDY, Driver

SMALL = Geometry(sinks=2, window=6, chunk=4, slots=2)


def test_a_paused_session_is_not_fed_and_holds_up_nobody() -> None:
    driver = Driver(SMALL)
    paused, other = driver.talker(), driver.talker()
    for talker in (paused, other):
        driver.submit(talker, (1,))
    driver.scheduler.step()
    driver.scheduler.pause(paused.tenant, paused=True)
    driver.finish()
    assert (len(paused.said), len(other.said)) == (1, 8)
    driver.scheduler.pause(paused.tenant, paused=False)
    driver.finish()
    assert paused.history == other.history


@pytest.mark.parametrize("parked_bytes", [0, 1 << 20])
def test_paused_turns_give_their_slots_to_those_who_wait_and_go_on_behind_them(parked_bytes: int) -> None:
    driver = Driver(SMALL, parked_bytes=parked_bytes)
    deaf, others = [driver.talker() for _ in range(2)], [driver.talker() for _ in range(2)]
    for talker in deaf:
        driver.submit(talker, (1,), options=replace(GREEDY, max_new_tokens=30))
    for _ in range(9):
        driver.step()
    for talker in deaf:
        driver.scheduler.pause(talker.tenant, paused=True)
    for talker in others:
        driver.submit(talker, (1,))
    driver.finish()
    assert [len(talker.said) for talker in (*deaf, *others)] == [9, 9, 8, 8]
    assert all(talker.tenant.slot is None for talker in deaf)
    for talker in deaf:
        driver.scheduler.pause(talker.tenant, paused=False)
    driver.finish()  # the driver checks what is said
    assert [talker.outcomes[0].reason for talker in deaf] == [FinishReason.LENGTH] * 2
    assert all(talker.events.count(TurnAdmitted()) == 1 for talker in deaf)


def test_a_turn_that_pauses_again_and_again_gives_its_slot_to_those_who_read_though_it_reads_just_now() -> None:
    driver = Driver(SMALL)
    tricklers, others = [driver.talker() for _ in range(2)], [driver.talker() for _ in range(3)]
    for talker in tricklers:
        driver.submit(talker, (1,), options=replace(GREEDY, max_new_tokens=30))
    for pauses in (0, 1, 2):
        for _ in range(2):
            driver.step()
        driver.submit(others[pauses], (1,), options=replace(GREEDY, max_new_tokens=2))
        driver.step()
        assert (TurnAdmitted() in others[pauses].events) is (pauses == 2)
        for paused in (True, False):
            for talker in tricklers:
                driver.scheduler.pause(talker.tenant, paused=paused)
        driver.step()
    driver.finish()  # the driver checks what is said
    assert [talker.outcomes[0].reason for talker in (*tricklers, *others)] == [FinishReason.LENGTH] * 5


def test_a_session_stays_paused_when_its_turn_ends_and_the_next_one_takes_no_slot() -> None:
    driver = Driver(SMALL)
    deaf = driver.talker()
    turn_id = driver.submit(deaf, (1,))
    driver.step()
    driver.scheduler.pause(deaf.tenant, paused=True)
    driver.scheduler.cancel_turn(deaf.tenant, turn_id, discard=False)
    driver.submit(deaf, (2,))
    driver.finish()
    assert deaf.events.count(TurnAdmitted()) == 1
    driver.scheduler.pause(deaf.tenant, paused=False)
    driver.finish()
    assert deaf.outcomes[-1].reason is FinishReason.LENGTH


def test_a_cache_with_tokens_of_a_turn_that_may_be_undone_does_not_go_to_the_disk() -> None:
    spilled: list[Tenant] = []

    def spill(tenant: Tenant, _: SlotState) -> bool:
        spilled.append(tenant)
        return False

    driver = Driver(SMALL, parked_bytes=0, spill=spill)
    deaf, others = driver.talker(), [driver.talker() for _ in range(3)]
    driver.submit(deaf, (1,))
    driver.step()
    driver.scheduler.pause(deaf.tenant, paused=True)
    for talker in others:
        driver.submit(talker, (1,))
        driver.finish()
    assert deaf.tenant.slot is None
    assert spilled == [others[0].tenant]


def test_who_generates_without_slots_of_its_own_gives_its_place_away_when_a_prompt_is_done() -> None:
    stage = Recomputing(Geometry(sinks=2, window=6, chunk=1, slots=1))
    deaf, other = stage.talker(), stage.talker()
    stage.submit(deaf, (1,), options=replace(GREEDY, max_new_tokens=30))
    stage.step()
    stage.scheduler.pause(deaf.tenant, paused=True)
    stage.submit(other, (1,), options=replace(GREEDY, max_new_tokens=30))
    for _ in range(20):  # until the first prompt's reply is whole, and a few tokens of the other
        stage.step()
    assert other.said
    stage.scheduler.pause(deaf.tenant, paused=False)
    while stage.step():
        assert stage.scheduler.residents <= 1
    stage.finish()  # the stage checks what is said
    assert deaf.history == other.history
