"""Snapshots of caches, whatever the database and the store: kept by their session's owner, found, pruned, collected."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import obstore
import pytest
from sqlalchemy import select

from common.auth.quotas import Quotas
from common.catalog.catalog import Catalog
from common.db.database import Database
from common.engine.engine import SlotState
from common.errors import Aborted, Reason, ResourceExhausted, Unavailable
from common.store.blob_store import open_store
from common.store.object_store import open_object_store
from common.window import Geometry
from runtime_service.domain.session import Session
from runtime_service.storage import snapshots as module
from runtime_service.storage.claims import SessionClaims
from runtime_service.storage.repository import SessionRepository
from runtime_service.storage.snapshots import KEPT, Snapshots
from runtime_service.storage.tables import snapshots as table
from tests.samples.session_examples import SESSION, slot_state
from tests.samples.whole_manifests import make_manifest


@pytest.fixture(params=["folder", "s3"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "objects") if request.param == "folder" else str(request.getfixturevalue("bucket").url)


@pytest.fixture
def repository(database: Database, tmp_path: Path) -> SessionRepository:
    Catalog(database, open_store(str(tmp_path / "store"))).publish(make_manifest(Geometry(4, 8, 4, 2)), "test")
    return SessionRepository(database)


@pytest.fixture
def snapshots(database: Database, store_url: str) -> Snapshots:
    return Snapshots(database, store_url)


@pytest.fixture
def session(repository: SessionRepository) -> Session:
    return replace(repository.create(SESSION, "here"), position=100)


def _objects(store_url: str) -> list[str]:
    store = open_object_store(store_url)
    return sorted(item["path"] for batch in obstore.list(store, prefix="sessions") for item in batch)


def _same(found: SlotState | None, state: SlotState) -> bool:
    return found is not None and found.position == state.position and found.keys.tobytes() == state.keys.tobytes()


def test_the_newest_that_the_session_has_reached_is_found(snapshots: Snapshots, session: Session) -> None:
    assert not snapshots.has(session)
    assert snapshots.load(session) is None
    for position in (10, 30, 20):
        snapshots.keep(session, slot_state(position, seed=position))
    assert snapshots.has(session)
    assert _same(snapshots.load(session), slot_state(30, seed=30))
    assert _same(snapshots.load(replace(session, position=29)), slot_state(20, seed=20))
    assert snapshots.load(replace(session, position=9)) is None


def test_keys_name_the_session_and_its_epoch_and_are_never_used_again(
    snapshots: Snapshots, session: Session, store_url: str
) -> None:
    for _ in range(2):
        snapshots.keep(session, slot_state(10))
    keys = _objects(store_url)
    assert len(set(keys)) == 2
    assert all(key.startswith(f"sessions/{session.session_id}/{session.epoch}/") for key in keys)


def test_only_the_newest_are_kept(snapshots: Snapshots, session: Session, store_url: str, database: Database) -> None:
    for position in range(10, 10 + 2 * KEPT):
        snapshots.keep(session, slot_state(position))
    with database.read() as connection:
        rows = sorted(connection.scalars(select(table.c.object_key)))
    assert len(rows) == KEPT
    assert _objects(store_url) == rows
    assert _same(snapshots.load(session), slot_state(9 + 2 * KEPT))


def test_those_beyond_a_quota_are_not_kept_and_the_oldest_of_the_session_go_first(
    session: Session, repository: SessionRepository, store_url: str, database: Database
) -> None:
    def rows() -> list[int]:
        with database.read() as connection:
            return sorted(connection.scalars(select(table.c.position)))

    most = [2**40]
    snapshots = Snapshots(database, store_url, quotas_of=lambda _: Quotas(snapshot_bytes=most[0]))
    snapshots.keep(session, slot_state(10))
    with database.read() as connection:
        size = connection.scalars(select(table.c.size_bytes)).one()
    most[0] = 3 * size
    other = replace(repository.create(replace(SESSION, session_id="other"), "here"), position=100)
    theirs = replace(repository.create(replace(SESSION, principal="you"), "here"), position=100)
    snapshots.keep(theirs, slot_state(99))
    for position in (20, 30, 40):
        snapshots.keep(session, slot_state(position))
    assert rows() == [20, 30, 40, 99]
    with pytest.raises(ResourceExhausted, match=f"may have {3 * size} and has {3 * size}, and this is") as caught:
        snapshots.keep(other, slot_state(50))
    assert caught.value.metadata["quota"] == "snapshot_bytes"
    most[0] = size
    snapshots.keep(session, slot_state(60))
    assert rows() == [60, 99]
    assert len(_objects(store_url)) == 2
    most[0] = size - 1
    with pytest.raises(ResourceExhausted):
        snapshots.keep(session, slot_state(70))
    assert _same(snapshots.load(session), slot_state(60)), "what is there stays"


def test_who_lost_the_session_keeps_nothing(
    snapshots: Snapshots, session: Session, store_url: str, database: Database
) -> None:
    SessionClaims(database, "there", 15.0, lambda _: False).claim("local", SESSION.session_id)
    with pytest.raises(Aborted) as caught:
        snapshots.keep(session, slot_state())
    assert caught.value.reason is Reason.SESSION_TAKEN_OVER
    assert _objects(store_url) == []
    assert not snapshots.has(session)


@pytest.mark.parametrize("damage", ["gone", "cut", "other engine"])
def test_one_that_cannot_be_used_is_passed_over(
    snapshots: Snapshots, session: Session, store_url: str, damage: str
) -> None:
    snapshots.keep(session, slot_state(10))
    (older,) = _objects(store_url)
    other = replace(session, engine_digest="sha256:" + "1" * 64) if damage == "other engine" else session
    snapshots.keep(other, slot_state(20))
    newer = next(key for key in _objects(store_url) if key != older)
    store = open_object_store(store_url)
    if damage == "gone":
        obstore.delete(store, newer)
    elif damage == "cut":
        obstore.put(store, newer, obstore.get(store, newer).bytes().to_bytes()[:-1])
    assert _same(snapshots.load(session), slot_state(10))


def test_a_session_that_is_deleted_leaves_none(
    snapshots: Snapshots, session: Session, repository: SessionRepository, store_url: str, database: Database
) -> None:
    snapshots.keep(session, slot_state(10))
    keys = snapshots.keys(session)
    assert repository.delete(session)
    with database.read() as connection:
        assert connection.scalars(select(table.c.object_key)).all() == []
    snapshots.delete(keys)
    assert _objects(store_url) == []


def test_objects_without_a_row_are_swept_when_they_are_old(
    snapshots: Snapshots, session: Session, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshots.keep(session, slot_state(10))
    (kept,) = _objects(store_url)
    obstore.put(open_object_store(store_url), "sessions/x/1/orphan", b"left by who died")
    assert snapshots.sweep() == 0, "it may be about to get its row"
    monkeypatch.setattr(module, "ORPHAN_AGE", timedelta(seconds=-60))
    assert snapshots.sweep() == 1
    assert _objects(store_url) == [kept]


def test_a_store_that_is_gone_says_so(database: Database, session: Session, tmp_path: Path) -> None:
    place = tmp_path / "gone"
    broken = Snapshots(database, str(place))
    shutil.rmtree(place)
    place.write_text("a file where the folder should be")
    with pytest.raises(Unavailable, match="gone does not answer"):
        broken.keep(session, slot_state())
