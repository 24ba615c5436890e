from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import insert, select

from common import blob_claims
from common.blob_claims import Sweeper, claim_blobs, claimed_by, release_claims
from common.catalog_tables import blob_tombstones
from common.database import Database, open_database
from common.digest import digest_of
from common.errors import Unavailable
from common.store import open_store
from tests.drafts import Press


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(f"sqlite:///{tmp_path / 'x.db'}")
    yield opened
    opened.close()


@pytest.fixture
def press(database: Database, tmp_path: Path) -> Press:
    return Press(database, open_store(str(tmp_path / "store")), tmp_path)


@pytest.fixture
def sweeper(press: Press) -> Sweeper:
    return Sweeper(press.database, press.store)


def test_what_nobody_needs_is_swept(press: Press, sweeper: Sweeper) -> None:
    digest = press.put(b"data")
    assert sweeper.sweep([digest]) == {digest}
    assert not press.store.has(digest)


def test_a_claimed_blob_stays_until_its_claim_ends(press: Press, sweeper: Sweeper) -> None:
    digest = press.put(b"data")
    claim_blobs(press.database, [digest], "builds/1")
    claim_blobs(press.database, [digest], "builds/1")
    claim_blobs(press.database, [digest], "builds/2")
    assert sweeper.sweep([digest]) == set()
    for holder, left in (("builds/1", set()), ("builds/2", {digest})):
        with press.database.write() as connection:
            assert release_claims(connection, holder) == {digest}
        assert sweeper.sweep([digest]) == left


def test_a_published_blob_stays(press: Press, sweeper: Sweeper) -> None:
    press.publish(files={"model.onnx": b"data"})
    assert sweeper.sweep([digest_of(b"data")]) == set()
    assert press.store.has(digest_of(b"data"))


def test_a_claim_waits_for_a_deletion_to_end(press: Press, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = press.put(b"data")
    sweeper, deleting, go_on = Sweeper(press.database, press.store), threading.Event(), threading.Event()
    delete = press.store.delete

    def slow(doomed: str) -> None:
        deleting.set()
        assert go_on.wait(60)
        delete(doomed)

    monkeypatch.setattr(press.store, "delete", slow)
    sweeping = threading.Thread(target=sweeper.sweep, args=([digest],))
    claiming = threading.Thread(target=claim_blobs, args=(press.database, [digest], "builds/1"))
    sweeping.start()
    assert deleting.wait(60)
    claiming.start()
    claiming.join(0.3)
    assert claiming.is_alive()
    with press.database.read() as connection:
        assert claimed_by(connection, "builds/1") == set()
    go_on.set()
    claiming.join()
    sweeping.join()
    with press.database.read() as connection:
        assert claimed_by(connection, "builds/1") == {digest}
    assert not press.store.has(digest), "and so the claimer stores it again"


def test_patience_ends(press: Press, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blob_claims, "_PATIENCE_S", 0.1)
    with press.database.write() as connection:
        connection.execute(insert(blob_tombstones).values(digest=digest_of(b"")))
    with pytest.raises(Unavailable):
        claim_blobs(press.database, [digest_of(b"")], "builds/1")


def test_what_a_dead_sweeper_began_is_finished(press: Press, sweeper: Sweeper) -> None:
    digest = press.put(b"data")
    with press.database.write() as connection:
        connection.execute(insert(blob_tombstones).values(digest=digest))
    sweeper.finish()
    assert not press.store.has(digest)
    with press.database.read() as connection:
        assert connection.scalars(select(blob_tombstones.c.digest)).all() == []
