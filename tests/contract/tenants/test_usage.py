"""What is billed by: every turn once, whatever was tried again, on every database."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from threading import Thread

import pytest

from common.db.database import Database
from common.db.paging import Page, read_page
from common.errors import Aborted
from runtime_service.domain.durability import Durability
from runtime_service.domain.session import Session
from runtime_service.domain.turn import Turn
from runtime_service.domain.usage import DayUsage
from runtime_service.storage.branches import SessionBranches
from runtime_service.storage.claims import SessionClaims
from runtime_service.storage.repository import SessionRepository
from runtime_service.storage.usage import UsageRecords, first_kept_day, used_in_minute
from tests.samples.session_examples import NOON, SESSION, after, finished, turn

ALL = Page(1000, None, "usage")
DAY = timedelta(days=1)


@pytest.fixture
def records(database: Database) -> UsageRecords:
    return UsageRecords(database)


def _run(repository: SessionRepository, session: Session, number: int, **ended: object) -> tuple[Session, Turn]:
    """A turn of 2 and 1 tokens; the session after it."""
    accepted = turn(number)
    repository.add_turn(session, accepted)
    done = replace(finished(accepted, 2, (7,), 3 * number), **ended)  # type: ignore[arg-type]
    session = after(session, done)
    repository.finish_turn(session, done, (1, 2, 7))
    return session, done


def _sums(records: UsageRecords, principal: str | None = "local") -> list[tuple[int, int, int]]:
    found, _ = records.page(principal, "", "", ALL)
    return [(each.turns, each.prompt_tokens, each.generated_tokens) for each in found]


def test_old_days_are_deleted_and_no_others(
    repository: SessionRepository, records: UsageRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime_service.storage.usage._AT_ONCE", 2)
    here = repository.create(SESSION)
    other = repository.create(replace(SESSION, principal="you"))
    for number in range(1, 6):
        here, _ = _run(repository, here, number, ended_at=NOON + number * DAY)
    _run(repository, other, 1, ended_at=NOON + DAY)
    first = first_kept_day(2, NOON + 6 * DAY)
    assert first == "2026-01-06"
    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(records.delete_before, (first, first))) == 4
    left, _ = records.page(None, "", "", ALL)
    assert [(each.principal, each.day) for each in left] == [("local", "2026-01-06"), ("local", "2026-01-07")]
    assert records.delete_before(first) == 0


def test_turns_add_up_by_principal_day_and_engine(repository: SessionRepository, records: UsageRecords) -> None:
    here = repository.create(SESSION)
    other = repository.create(replace(SESSION, principal="you", engine_version=2))
    here, _ = _run(repository, here, 1)
    here, _ = _run(repository, here, 2)
    _run(repository, here, 3, ended_at=NOON + DAY)
    _run(repository, other, 1)
    mine = [DayUsage("local", "2026-01-02", "demo@1", 2, 4, 2), DayUsage("local", "2026-01-03", "demo@1", 1, 2, 1)]
    yours = DayUsage("you", "2026-01-02", "demo@2", 1, 2, 1)
    assert records.page("local", "", "", ALL) == (mine, "")
    assert records.page(None, "", "", ALL) == ([*mine, yours], "")
    assert records.page(None, "2026-01-03", "", ALL) == ([mine[1]], "")
    assert records.page(None, "", "2026-01-02", ALL) == ([mine[0], yours], "")
    first, token = records.page(None, "", "", Page(2, None, "usage"))
    assert (first, records.page(None, "", "", read_page(2, token, "usage", (str, str, str)))) == (mine, ([yours], ""))


def test_a_write_that_is_tried_again_counts_once(repository: SessionRepository, records: UsageRecords) -> None:
    session, done = _run(repository, repository.create(SESSION), 1)
    repository.finish_turn(session, done, (1, 2, 7))
    assert _sums(records) == [(1, 2, 1)]


def test_a_turn_that_runs_again_after_a_crash_counts_once(
    repository: SessionRepository, records: UsageRecords, database: Database
) -> None:
    first = repository.create(SESSION, "dead")
    repository.add_turn(first, turn(1))
    claimed = SessionClaims(database, "here", 15.0).claim("local", "a")
    assert claimed is not None
    done = finished(claimed.unended[0], 2, (7,), 3)
    with pytest.raises(Aborted):  # the dead one was only slow
        repository.finish_turn(after(first, done), done, (1, 2, 7))
    assert _sums(records) == []
    repository.finish_turn(after(claimed.session, done), done, (1, 2, 7))
    assert _sums(records) == [(1, 2, 1)]


def test_a_session_of_which_nothing_is_kept_is_billed_as_others(
    repository: SessionRepository, records: UsageRecords
) -> None:
    options = replace(SESSION.options, durability=Durability.NONE)
    session = repository.create(replace(SESSION, options=options), "here")
    for number in (1, 2):
        repository.check_owned(session)
        done = finished(turn(number), 2, (7,), 3 * number)
        before, session = session, after(session, done)
        repository.note_progress(session, done)
        repository.check_owned(before)  # a turn is accepted before that is known here
        repository.note_progress(session, done)
        assert _sums(records) == [(number, 2 * number, number)]
    with pytest.raises(Aborted):
        repository.note_progress(replace(session, epoch=session.epoch + 1, turns=9), done)
    assert _sums(records) == [(2, 4, 2)]


def test_what_was_used_stays_when_turns_go_and_is_not_copied(
    repository: SessionRepository, records: UsageRecords, database: Database
) -> None:
    session, _ = _run(repository, repository.create(SESSION), 1)
    branches = SessionBranches(database)
    branches.fork(session, "", replace(session, session_id="b"))
    session, _ = branches.rewind(session, "t1", drop_turn=True)
    assert repository.delete(session)
    assert _sums(records) == [(1, 2, 1)]


def test_replicas_that_write_at_once_lose_nothing(repository: SessionRepository, records: UsageRecords) -> None:
    def talk(name: str) -> None:
        session = repository.create(replace(SESSION, session_id=name))
        for number in range(1, 11):
            session, _ = _run(repository, session, number)

    threads = [Thread(target=talk, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert _sums(records) == [(40, 80, 40)]


def test_tokens_of_a_minute(repository: SessionRepository, database: Database) -> None:
    minute = timedelta(minutes=1)

    def used(principal: str, now: datetime) -> tuple[int, int]:
        with database.read() as connection:
            return used_in_minute(connection, principal, now)

    one = repository.create(SESSION)
    other = repository.create(replace(SESSION, session_id="b", engine_version=2))
    one, _ = _run(repository, one, 1, ended_at=NOON)
    one, _ = _run(repository, one, 2, ended_at=NOON + minute / 2)
    _run(repository, other, 1, ended_at=NOON)
    assert used("local", NOON) == (6, 3)
    assert used("local", NOON + minute) == used("you", NOON) == (0, 0)
    one, _ = _run(repository, one, 3, ended_at=NOON + minute)
    _run(repository, one, 4, ended_at=NOON)  # by another server, late
    assert used("local", NOON + minute) == (2, 1)
