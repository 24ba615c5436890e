"""Slots between principals: the one that runs fewest turns goes first, and gets a slot where another has two more."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.window import Geometry
from runtime_service.scheduling.scheduler_events import TurnAdmitted
from tests.unit.runtime_service.recompute.recomputing import Recomputing
from tests.unit.runtime_service.scheduling.driver import GREEDY, Driver, Stage, Talker

SMALL = Geometry(sinks=2, window=6, chunk=4, slots=4)
LONG = replace(GREEDY, max_new_tokens=30)


def crowd(stage: Stage, principal: str, count: int) -> list[Talker]:
    """So many sessions of a principal, with a long turn each."""
    talkers = [stage.talker() for _ in range(count)]
    for talker in talkers:
        talker.tenant.principal = principal
        stage.submit(talker, (1,), options=LONG)
    return talkers


def running(talkers: list[Talker]) -> int:
    return sum(talker.tenant.slot is not None and not talker.tenant.suspended for talker in talkers)


def test_who_comes_late_gets_half_of_the_slots_of_one_that_had_them_all() -> None:
    driver = Driver(SMALL, parked_bytes=1 << 20)
    many = crowd(driver, "many", 6)
    for _ in range(5):
        driver.step()
    assert running(many) == 4
    late = crowd(driver, "late", 3)
    driver.step()
    assert (running(many), running(late)) == (2, 2)
    driver.finish()  # the driver checks what is said
    assert {len(talker.said) for talker in (*many, *late)} == {30}
    assert all(talker.events.count(TurnAdmitted()) == 1 for talker in (*many, *late))


def test_turns_of_one_principal_go_in_the_order_in_which_they_came() -> None:
    driver = Driver(SMALL)
    talkers = crowd(driver, "", 9)
    driver.finish()
    ends = [driver.ended.index(talker) for talker in talkers]
    assert sorted(ends[:4]) == [0, 1, 2, 3]
    assert sorted(ends[4:8]) == [4, 5, 6, 7]


@pytest.mark.parametrize("slots", [1, 2])
def test_one_slot_more_is_no_reason_to_take_it(slots: int) -> None:
    driver = Driver(replace(SMALL, slots=slots))
    first = crowd(driver, "a", 1)
    driver.step()
    others = crowd(driver, "b", 1) + crowd(driver, "a", 1)
    driver.step()
    assert running(first) == 1
    driver.finish()
    assert all(len(talker.said) == 30 for talker in (*first, *others))


def test_an_engine_without_caches_starts_turns_in_the_same_order() -> None:
    stage = Recomputing()
    many = crowd(stage, "many", 6)
    stage.step()
    late = crowd(stage, "late", 1)
    stage.finish()
    assert stage.ended.index(late[0]) < max(stage.ended.index(talker) for talker in many)


@pytest.mark.long
@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=12), st.integers(1, 4))
def test_every_turn_ends_with_what_it_would_say_alone(principals: list[str], slots: int) -> None:
    driver = Driver(replace(SMALL, slots=slots), parked_bytes=1 << 20)
    talkers = []
    for principal in principals:
        talkers += crowd(driver, principal, 1)
        driver.step()
    driver.finish()
    assert all(len(talker.said) == 30 for talker in talkers)
