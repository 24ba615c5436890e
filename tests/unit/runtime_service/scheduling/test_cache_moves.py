"""Caches that change their place are counted: against what the engine itself was asked to do."""

from __future__ import annotations

from common.window import Geometry, SessionWindow
from runtime_service.decoding.token_history import TokenHistory
from runtime_service.scheduling.cache_moves import CacheMoves
from tests.unit.runtime_service.scheduling.driver import Driver, Talker

SMALL = Geometry(sinks=2, window=6, chunk=4, slots=2)


def fed(driver: Driver) -> int:
    """Tokens that the engine was fed, all in all."""
    return sum(len(feed.tokens) for step in driver.engine.steps for feed in step)


def talk(driver: Driver, *talkers: Talker) -> None:
    for talker in talkers:
        driver.submit(talker, (1, 2, 3))
        driver.finish()


def test_sessions_that_have_a_slot_move_nothing() -> None:
    driver = Driver(SMALL)
    first, second = driver.talker(opening=(9, 8)), driver.talker()
    talk(driver, first, second, first, second)
    assert driver.scheduler.moves == CacheMoves()


def test_more_sessions_than_slots_are_parked_and_come_back() -> None:
    driver = Driver(SMALL)
    first, second, third = driver.talker(), driver.talker(), driver.talker()
    talk(driver, first, second, third)
    assert driver.scheduler.moves == CacheMoves(parked=1)
    talk(driver, first)
    assert driver.scheduler.moves == CacheMoves(parked=2, unparked=1)


def test_a_cache_that_was_dropped_is_replayed_as_tokens() -> None:
    driver = Driver(SMALL, parked_bytes=0)
    first, second, third = driver.talker(), driver.talker(), driver.talker()
    talk(driver, first, second, third)
    assert driver.scheduler.moves == CacheMoves(parked=1, dropped=1)
    in_cache, before = first.tenant.history.fed_before, fed(driver)
    assert in_cache == len(first.history) - 1  # the last token of a turn is fed with the next
    talk(driver, first)
    new = first.tenant.history.fed - in_cache
    moves = driver.scheduler.moves
    assert moves == CacheMoves(parked=2, dropped=2, replayed=1, replayed_tokens=moves.replayed_tokens)
    assert moves.replayed_tokens == fed(driver) - before - new


def test_a_session_from_the_database_is_replayed() -> None:
    driver = Driver(SMALL)
    talker = driver.talker()
    talker.history = list(range(1, 31))
    talker.tenant.history = TokenHistory.stored(SessionWindow(2, 6), 30)
    talk(driver, talker)
    moves = driver.scheduler.moves
    assert moves == CacheMoves(replayed=1, replayed_tokens=moves.replayed_tokens)
    assert moves.replayed_tokens == fed(driver) - (talker.tenant.history.fed - 30)


def test_a_session_that_was_never_fed_is_not_a_lost_one() -> None:
    moves = CacheMoves()
    moves.note_start(TokenHistory(SessionWindow(2, 6), (1, 2, 3)))
    moves.note_start(TokenHistory.stored(SessionWindow(2, 6), 0))
    assert moves == CacheMoves()
