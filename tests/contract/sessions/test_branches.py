"""Histories that are cut and copied, whatever the database."""

from __future__ import annotations

import uuid
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError

from common.catalog.catalog import Catalog
from common.db.database import Database
from common.db.paging import Page
from common.errors import Aborted, FailedPrecondition, NotFound, Reason
from common.store.blob_store import open_store
from runtime_service.domain.session import Session
from runtime_service.storage.branches import SessionBranches
from runtime_service.storage.claims import SessionClaims
from runtime_service.storage.repository import SessionRepository
from runtime_service.storage.tables import snapshots
from tests.nightly import examples
from tests.samples.session_examples import NOON, SESSION, after, finished, turn

EVERY = Page(1000, None, "turns")


@pytest.fixture
def branches(database: Database) -> SessionBranches:
    return SessionBranches(database)


@pytest.fixture
def session(repository: SessionRepository) -> Session:
    return _talked(repository, repository.create(SESSION), range(1, 4))


def _talked(repository: SessionRepository, session: Session, numbers: range) -> Session:
    """Each turn adds two tokens, its number and that of a reply."""
    for number in numbers:
        repository.add_turn(session, turn(number))
        done = finished(turn(number), 1, (100 + number,), session.position + 2)
        assert done.result is not None
        done = replace(done, result=replace(done.result, finished_sequence=20 * number))
        session = after(session, done)
        repository.finish_turn(session, done, (number, 100 + number))
    return session


def _ids(repository: SessionRepository, session: Session) -> list[str]:
    return [item.turn_id for item in repository.list_turns(session, EVERY)[0]]


def _tokens(repository: SessionRepository, session: Session) -> list[int]:
    return repository.history(session, 10_000)[2]


def test_a_session_goes_back_to_the_end_of_a_turn(
    repository: SessionRepository, branches: SessionBranches, session: Session
) -> None:
    rewound, gone = branches.rewind(session, "t2", drop_turn=False)
    assert gone == []
    assert _ids(repository, rewound) == ["t1", "t2"]
    assert _tokens(repository, rewound) == [1, 2, 1, 101, 2, 102]
    assert rewound == replace(session, position=6, turns=2, oldest_visible_turn="t1")
    assert repository.get("local", "a") == replace(rewound, last_active_at=session.last_active_at)


def test_a_session_goes_back_to_the_start_of_a_turn(
    repository: SessionRepository, branches: SessionBranches, session: Session
) -> None:
    rewound, _ = branches.rewind(session, "t1", drop_turn=True)
    assert (rewound.position, rewound.turns) == (2, 0)
    assert _ids(repository, rewound) == []
    again = _talked(repository, rewound, range(1, 2))
    assert _tokens(repository, again) == [1, 2, 1, 101]


def test_what_has_not_ended_is_dropped_behind_the_turn_and_stays_before_it(
    repository: SessionRepository, branches: SessionBranches, session: Session
) -> None:
    for number in (4, 5):
        repository.add_turn(session, turn(number))
    kept, _ = branches.rewind(session, "t4", drop_turn=False)
    assert (_ids(repository, kept), kept.position) == (["t1", "t2", "t3", "t4"], session.position)
    rewound, _ = branches.rewind(kept, "t4", drop_turn=True)
    assert (_ids(repository, rewound), rewound.position) == (["t1", "t2", "t3"], session.position)


def test_only_snapshots_of_what_is_left_stay(database: Database, branches: SessionBranches, session: Session) -> None:
    with database.write() as connection:
        for position in (2, 6, 7, 8):
            values = {"object_key": f"k{position}", "position": position, "size_bytes": 1, "created_at": NOON}
            connection.execute(insert(snapshots).values(session_key=session.key, **values))
    _, gone = branches.rewind(session, "t2", drop_turn=False)
    assert sorted(gone) == ["k7", "k8"]
    with database.read() as connection:
        assert sorted(connection.scalars(select(snapshots.c.object_key))) == ["k2", "k6"]


def test_who_lost_the_session_cannot_rewind_it(
    database: Database, repository: SessionRepository, branches: SessionBranches, session: Session
) -> None:
    SessionClaims(database, "there", 15.0).claim("local", "a")
    with pytest.raises(Aborted):
        branches.rewind(session, "t1", drop_turn=False)
    assert _ids(repository, session) == ["t1", "t2", "t3"]


def test_a_fork_by_who_lost_the_session_goes_on_above_every_number_of_its_turns(
    database: Database, repository: SessionRepository, branches: SessionBranches, session: Session
) -> None:
    claimed = SessionClaims(database, "there", 15.0).claim("local", "a")
    assert claimed is not None
    fork = branches.fork(session, "t3", replace(session, session_id="b"))
    assert fork.epoch == claimed.session.epoch


def test_a_session_that_has_gone_is_not_forked(
    repository: SessionRepository, branches: SessionBranches, session: Session
) -> None:
    repository.delete(session)
    with pytest.raises(NotFound) as caught:
        branches.fork(session, "", replace(session, session_id="b"))
    assert caught.value.reason is Reason.SESSION_NOT_FOUND
    assert repository.find("local", "b") is None


def test_a_turn_that_is_not_there_is_named(branches: SessionBranches, session: Session) -> None:
    with pytest.raises(NotFound, match="sessions/a has no turn 'x'") as caught:
        branches.rewind(session, "x", drop_turn=False)
    assert caught.value.reason is Reason.TURN_NOT_FOUND
    with pytest.raises(NotFound, match="has no turn 'x'"):
        branches.fork(session, "x", replace(session, session_id="b"))


@pytest.mark.parametrize(("turn_id", "turns"), [("", 3), ("t3", 3), ("t2", 2), ("t1", 1)])
def test_a_fork_begins_as_the_other_was_and_both_go_on(
    repository: SessionRepository, branches: SessionBranches, session: Session, turn_id: str, turns: int
) -> None:
    fork = branches.fork(session, turn_id, replace(session, session_id="b"))
    assert (fork.position, fork.turns, fork.last_sequence) == (2 + 2 * turns, turns, 20 * turns)
    assert _tokens(repository, fork) == _tokens(repository, session)[: fork.position]
    both = repository.list_turns(session, EVERY)[0][:turns], repository.list_turns(fork, EVERY)[0]
    assert both[0] == both[1]
    _talked(repository, fork, range(9, 10))
    assert _ids(repository, session) == ["t1", "t2", "t3"]
    assert repository.delete(session)
    assert len(_ids(repository, fork)) == turns + 1


def test_a_fork_at_what_has_not_ended_is_refused_and_without_a_turn_leaves_it_out(
    repository: SessionRepository, branches: SessionBranches, session: Session
) -> None:
    repository.add_turn(session, turn(4))
    with pytest.raises(FailedPrecondition, match="'t4' of sessions/a has not finished") as caught:
        branches.fork(session, "t4", replace(session, session_id="b"))
    assert caught.value.reason is Reason.TURN_NOT_FINISHED
    assert repository.find("local", "b") is None
    assert _ids(repository, branches.fork(session, "", replace(session, session_id="b"))) == ["t1", "t2", "t3"]


def test_a_fork_holds_its_engine_and_takes_a_free_id(
    database: Database, repository: SessionRepository, branches: SessionBranches, session: Session, tmp_path: Path
) -> None:
    fork = branches.fork(session, "", replace(session, session_id="b"))
    with pytest.raises(IntegrityError):
        branches.fork(session, "", replace(session, session_id="b"))
    with pytest.raises(IntegrityError):
        branches.fork(session, "", replace(session, session_id="c", engine_version=9))
    repository.delete(session)
    catalog = Catalog(database, open_store(str(tmp_path / "store")))
    with pytest.raises(FailedPrecondition):
        catalog.delete("demo@1")
    repository.delete(fork)
    catalog.delete("demo@1")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=examples(15))
@given(data=st.data())
def test_whatever_is_cut_and_copied_the_history_is_that_of_the_turns(
    repository: SessionRepository, branches: SessionBranches, data: st.DataObject
) -> None:
    name = uuid.uuid4().hex  # an example may be given up in the middle, and begun again
    session = repository.create(replace(SESSION, session_id=name))
    model: list[int] = []
    for step in range(data.draw(st.integers(1, 8))):
        first = max(model, default=0) + 1
        match data.draw(st.sampled_from(["talk", "rewind", "fork"])) if model else "talk":
            case "talk":
                count = data.draw(st.integers(1, 3))
                session = _talked(repository, session, range(first, first + count))
                model += range(first, first + count)
            case "rewind":
                at, drop = data.draw(st.sampled_from(model)), data.draw(st.booleans())
                session, _ = branches.rewind(session, f"t{at}", drop_turn=drop)
                model = [turn for turn in model if turn < at + (not drop)]
            case "fork":
                at = data.draw(st.sampled_from(model))
                session = branches.fork(session, f"t{at}", replace(session, session_id=f"{name}-{step}"))
                model = [turn for turn in model if turn <= at]
        assert _ids(repository, session) == [f"t{turn}" for turn in model]
        expected = [*SESSION.opening, *(token for turn in model for token in (turn, 100 + turn))]
        assert _tokens(repository, session) == expected
        assert session.position == len(expected)
    for found in (name, *(f"{name}-{step}" for step in range(8))):
        if (kept := repository.find("local", found)) is not None:
            repository.delete(kept)
