"""Which sessions a listing has, and what changes of one another replica hears, whatever the database."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.db.database import Database, utc_now
from common.db.paging import Page, read_page
from common.errors import NotFound
from common.spec.engine_reference import EngineReference
from runtime_service.domain.session import IDLE_FIELD, Session
from runtime_service.domain.session_filter import SessionFilter
from runtime_service.domain.session_update import LABELS_FIELD, SessionUpdate
from runtime_service.storage.branches import SessionBranches
from runtime_service.storage.claims import SessionClaims
from runtime_service.storage.repository import SessionRepository
from runtime_service.storage.updates import SessionUpdates
from tests.nightly import examples
from tests.samples.session_examples import NOON, SESSION
from tests.samples.whole_manifests import DIGEST

ALL = Page(1000, None, "sessions")
KEY = ("local", "a")
WORDS = st.text(st.sampled_from('ab", :{}\\\0é'), min_size=1, max_size=3)
LABELS = st.dictionaries(WORDS, WORDS | st.just(""), max_size=2)


@pytest.fixture
def here(database: Database) -> SessionUpdates:
    return SessionUpdates(database, "here", {"here", "there"}.__contains__)


@pytest.fixture
def there(database: Database) -> SessionUpdates:
    claims = SessionClaims(database, "there", 15.0, {"here", "there"}.__contains__)
    claims.renew()
    return SessionUpdates(database, "there", {"here", "there"}.__contains__)


def _made(repository: SessionRepository, session_id: str, **values: object) -> Session:
    return repository.create(replace(SESSION, session_id=session_id, **values))  # type: ignore[arg-type]


def _listed(repository: SessionRepository, only: SessionFilter, page: Page = ALL) -> list[str]:
    return [session.session_id for session in repository.list_sessions("local", page, only)[0]]


def _labelled(**labels: str) -> SessionFilter:
    return SessionFilter(tuple(sorted(labels.items())))


def _relabel(labels: dict[str, str]) -> SessionUpdate:
    return SessionUpdate(frozenset({LABELS_FIELD}), labels, None)


def _idle(seconds: float | None) -> SessionUpdate:
    return SessionUpdate(frozenset({IDLE_FIELD}), {}, seconds)


def test_a_session_is_found_by_all_of_its_labels(repository: SessionRepository) -> None:
    _made(repository, "a", labels={"team": "x", "tone": "calm"})
    _made(repository, "b", labels={"team": "x"})
    _made(repository, "c", labels={"team": "y", "tone": "calm"})
    _made(repository, "d", labels={})
    repository.create(replace(SESSION, principal="you", session_id="e", labels={"team": "x"}))
    assert _listed(repository, _labelled(team="x")) == ["b", "a"]
    assert _listed(repository, _labelled(team="x", tone="calm")) == ["a"]
    assert _listed(repository, _labelled(team="calm")) == []
    assert _listed(repository, _labelled(x="team")) == []
    assert _listed(repository, SessionFilter()) == ["d", "c", "b", "a"]


@settings(max_examples=examples(40), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(has=LABELS, wanted=LABELS)
def test_labels_are_compared_to_the_letter(
    repository: SessionRepository, has: dict[str, str], wanted: dict[str, str]
) -> None:
    session = _made(repository, "a", labels=has)
    found = _listed(repository, _labelled(**wanted))
    assert bool(found) == (wanted.items() <= has.items())
    assert repository.delete(session)


def test_a_session_is_found_by_its_engine(repository: SessionRepository) -> None:
    for session_id, version, digest in (("a", 1, DIGEST), ("b", 2, "sha256:" + "b" * 64)):
        _made(repository, session_id, engine_version=version, engine_digest=digest)
    for engine, found in (
        (EngineReference("demo"), ["b", "a"]),
        (EngineReference("demo", version=1), ["a"]),
        (EngineReference("demo", digest="sha256:" + "b" * 64), ["b"]),
        (EngineReference("dem"), []),
        (EngineReference("demo", version=3), []),
    ):
        assert _listed(repository, SessionFilter(engine=engine)) == found


def test_pages_of_a_filter_have_what_it_lets_through_and_nothing_twice(repository: SessionRepository) -> None:
    for number in range(9):
        last = NOON + timedelta(seconds=number // 2)
        _made(repository, f"s{number}", labels={"odd": str(number % 2)}, last_active_at=last)
    found: list[str] = []
    token = ""
    while True:
        page = read_page(2, token, "odd ones", (int, int))
        sessions, token = repository.list_sessions("local", page, _labelled(odd="1"))
        found += [session.session_id for session in sessions]
        if not token:
            break
    assert found == ["s7", "s5", "s3", "s1"]


def test_a_fork_has_the_labels_of_its_source(repository: SessionRepository, database: Database) -> None:
    source = _made(repository, "a", labels={"team": "x"})
    SessionBranches(database).fork(source, "", replace(source, session_id="b"))
    assert sorted(_listed(repository, _labelled(team="x"))) == ["a", "b"]


def test_labels_that_were_changed_are_what_it_is_found_by(repository: SessionRepository, here: SessionUpdates) -> None:
    made = _made(repository, "a", labels={"team": "x", "tone": "calm"})
    assert here.keep(KEY, _relabel({"team": "y"})) == replace(made, labels={"team": "y"})
    assert repository.get(*KEY) == replace(made, labels={"team": "y"})
    assert _listed(repository, _labelled(team="x")) == _listed(repository, _labelled(tone="calm")) == []
    assert _listed(repository, _labelled(team="y")) == ["a"]
    here.keep(KEY, _relabel({}))
    assert _listed(repository, _labelled(team="y")) == []


def test_a_session_that_nobody_has_expires_from_the_change_on(
    repository: SessionRepository, here: SessionUpdates
) -> None:
    made = _made(repository, "a", expires_at=NOON)
    begin = utc_now() - timedelta(seconds=60)
    changed = here.keep(KEY, _idle(3600.0))
    assert changed.options == replace(made.options, delete_after_idle_s=3600.0)
    assert changed.expires_at is not None
    assert changed.expires_at > begin + timedelta(seconds=3600)
    assert repository.get(*KEY) == changed
    assert here.keep(KEY, _idle(None)).expires_at is None


def test_who_has_a_session_is_told_once(
    repository: SessionRepository, here: SessionUpdates, there: SessionUpdates
) -> None:
    repository.create(SESSION, "there")
    here.keep(KEY, _relabel({"team": "y"}))
    assert (here.pending(), there.pending()) == ([], [KEY])
    assert here.take(KEY) is None
    told = there.take(KEY)
    assert told is not None
    assert told.labels == {"team": "y"}
    assert (there.pending(), there.take(KEY)) == ([], None)


def test_who_claims_a_session_need_not_be_told(
    database: Database, repository: SessionRepository, here: SessionUpdates, there: SessionUpdates
) -> None:
    repository.create(SESSION, "there")
    here.keep(KEY, _relabel({"team": "y"}))
    SessionClaims(database, "there", 15.0).release_all()
    claimed = SessionClaims(database, "here", 15.0).claim(*KEY)
    assert claimed is not None
    assert claimed.session.labels == {"team": "y"}
    assert (here.pending(), there.pending()) == ([], [])


def test_a_session_that_somebody_follows_does_not_expire_by_a_change(
    repository: SessionRepository, here: SessionUpdates, there: SessionUpdates
) -> None:
    repository.create(SESSION, "there")
    assert there.pending() == []
    assert here.keep(KEY, _idle(1.0)).expires_at is None


def test_what_is_not_there_is_not_changed(here: SessionUpdates, repository: SessionRepository) -> None:
    _made(repository, "a")
    for key in (("local", "b"), ("you", "a")):
        with pytest.raises(NotFound, match=f"sessions/{key[1]}"):
            here.keep(key, _relabel({}))
