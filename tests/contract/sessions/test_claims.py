"""One session, several runtimes: whatever they do in whatever order, at most one of them changes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import update

from common.db.database import Database, database_time, utc_now
from common.errors import Aborted, NotFound, Reason
from runtime_service.domain.session import Session
from runtime_service.storage import tables
from runtime_service.storage.claims import Claimed, SessionClaims
from runtime_service.storage.repository import SessionRepository
from tests.samples.session_examples import SESSION, after, finished, turn

IDLE_S = 60.0


@pytest.fixture
def processes() -> set[str]:
    """The replicas whose processes run."""
    return {"here", "there"}


@pytest.fixture
def here(database: Database, processes: set[str]) -> SessionClaims:
    claims = SessionClaims(database, "here", 15.0, processes.__contains__)
    claims.renew()
    return claims


@pytest.fixture
def there(database: Database, processes: set[str]) -> SessionClaims:
    claims = SessionClaims(database, "there", 15.0, processes.__contains__)
    claims.renew()
    return claims


def _taken(claims: SessionClaims) -> Claimed:
    claimed = claims.claim("local", "a")
    assert claimed is not None
    return claimed


def _forget_lease(database: Database, replica: str) -> None:
    with database.write() as connection:
        past = database_time(connection) - timedelta(seconds=1)
        connection.execute(
            update(tables.replicas).where(tables.replicas.c.replica == replica).values(lease_expires=past)
        )


def test_a_claim_counts_and_brings_what_never_ended(repository: SessionRepository, here: SessionClaims) -> None:
    session = repository.create(SESSION)
    for number in (1, 2, 3):
        repository.add_turn(session, turn(number))
    done = finished(turn(1), 1, (), 3)
    repository.finish_turn(after(session, done), done, (5,))
    claimed = _taken(here)
    assert claimed.session.epoch == session.epoch + 1
    assert [item.turn_id for item in claimed.unended] == ["t2", "t3"]
    assert claimed.next_number == 4
    repository.note_attempt(claimed.session, replace(claimed.unended[0], attempt=2, stops=1))
    again = _taken(here)
    assert again.session.epoch == session.epoch + 2
    assert (again.unended[0].attempt, again.unended[0].stops) == (2, 1)
    with pytest.raises(NotFound):
        here.claim("other", "a")


def test_what_somebody_has_is_asked_for_and_had_when_it_is_released(
    repository: SessionRepository, here: SessionClaims, there: SessionClaims
) -> None:
    session = repository.create(SESSION, "here")
    assert here.requested() == []
    assert there.claim("local", "a") is None
    assert here.requested() == [("local", "a")]
    assert there.requested() == []
    assert there.claim("local", "a") is None, "asking twice is asking"
    here.release(session)
    assert here.requested() == []
    assert _taken(there).session.epoch == session.epoch + 1
    assert there.requested() == []
    assert here.claim("local", "a") is None


def test_a_session_of_a_replica_whose_lease_has_passed_is_had(
    database: Database, repository: SessionRepository, here: SessionClaims, there: SessionClaims
) -> None:
    repository.create(SESSION, "here")
    _forget_lease(database, "here")
    assert _taken(there).session.session_id == "a"
    here.renew()
    assert here.claim("local", "a") is None, "who wakes has to ask"


def test_a_session_of_a_process_that_died_here_is_had_at_once(
    repository: SessionRepository, here: SessionClaims, there: SessionClaims, processes: set[str]
) -> None:
    repository.create(SESSION, "here")
    here.renew()
    processes.discard("here")
    assert _taken(there).session.session_id == "a"
    assert there.alive() == {"there"}


def test_a_replica_that_leaves_gives_up_what_it_has(
    repository: SessionRepository, here: SessionClaims, there: SessionClaims
) -> None:
    repository.create(SESSION, "here")
    here.release_all()
    assert _taken(there).session.session_id == "a"
    assert there.alive() == {"there"}


def test_a_release_by_who_was_thought_dead_takes_nothing_away(
    database: Database, repository: SessionRepository, here: SessionClaims, there: SessionClaims
) -> None:
    old = repository.create(SESSION, "here")
    _forget_lease(database, "here")
    _taken(there)
    here.renew()
    here.release(old)
    assert here.claim("local", "a") is None


def test_what_another_has_by_now_is_not_released_for_it(
    repository: SessionRepository, here: SessionClaims, there: SessionClaims
) -> None:
    here.release(repository.create(SESSION, "here"))
    claimed = _taken(there)
    here.release(claimed.session)
    assert here.claim("local", "a") is None, "it has to be asked for"
    there.release(claimed.session)
    assert _taken(here).session.epoch == claimed.session.epoch + 1


def test_who_has_a_session_can_see_that_it_has_it_still(
    repository: SessionRepository, here: SessionClaims, there: SessionClaims
) -> None:
    session = repository.create(SESSION, "here")
    assert here.is_owner(session)
    here.release(session)
    claimed = _taken(there)
    assert not here.is_owner(session)
    assert there.is_owner(claimed.session)
    repository.delete(claimed.session)
    assert not there.is_owner(claimed.session)


def _expire(repository: SessionRepository, session: Session) -> None:
    repository.set_expiry(replace(session, expires_at=utc_now()))


WRITES: dict[str, Callable[[SessionRepository, Session], object]] = {
    "add_turn": lambda repository, session: repository.add_turn(session, turn(2)),
    "note_attempt": lambda repository, session: repository.note_attempt(session, replace(turn(1), attempt=2)),
    "finish_turn": lambda repository, session: repository.finish_turn(
        after(session, finished(turn(1), 1, (), 3)), finished(turn(1), 1, (), 3), (5,)
    ),
    "set_expiry": _expire,
}


@pytest.mark.parametrize("write", WRITES)
def test_every_write_of_an_earlier_epoch_is_refused_and_changes_nothing(
    repository: SessionRepository, here: SessionClaims, write: str
) -> None:
    session = repository.create(SESSION)
    repository.add_turn(session, turn(1))
    WRITES[write](repository, session)
    old = repository.get("local", "a")
    now = _taken(here).session
    before = repository.get("local", "a"), repository.find_turn(now.key, "t1")
    with pytest.raises(Aborted) as caught:
        WRITES[write](repository, old)
    assert caught.value.reason is Reason.SESSION_TAKEN_OVER
    assert (repository.get("local", "a"), repository.find_turn(now.key, "t1")) == before


def test_who_lost_a_session_cannot_delete_it(repository: SessionRepository, here: SessionClaims) -> None:
    old = repository.create(SESSION)
    mine = _taken(here).session
    assert not repository.delete(old)
    assert repository.delete(mine)
    with pytest.raises(Aborted):
        repository.add_turn(mine, turn(1))


def test_sessions_expire_where_nobody_has_them(
    database: Database, repository: SessionRepository, here: SessionClaims, there: SessionClaims
) -> None:
    session = repository.create(SESSION, "here")
    _expire(repository, session)
    assert [item.session_id for item in here.expired()] == ["a"]
    assert there.expired() == [], "another has it"
    _forget_lease(database, "here")
    assert [item.session_id for item in there.expired()] == ["a"]
    _taken(there)
    assert there.expired() == [], "opened, it does not expire"


def test_sessions_whose_replica_died_expire_from_now_on(
    database: Database, repository: SessionRepository, here: SessionClaims, there: SessionClaims
) -> None:
    repository.create(SESSION, "here")
    there.set_missing_expiries()
    assert repository.get("local", "a").expires_at is None, "it may be open"
    here.set_missing_expiries()
    assert repository.get("local", "a").expires_at is None, "nor does its owner think it lost"
    _forget_lease(database, "here")
    there.set_missing_expiries()
    expires = repository.get("local", "a").expires_at
    assert expires is not None
    assert timedelta(seconds=IDLE_S - 30) < expires - utc_now() < timedelta(seconds=IDLE_S + 30)
