from __future__ import annotations

import threading
from pathlib import Path

import pytest
from sqlalchemy import insert, select

from common.catalog import blob_claims
from common.catalog.blob_claims import Sweeper, claim_blobs, claimed_by, release_claims
from common.catalog.tables import blob_tombstones
from common.db.database import Database
from common.db.processes import this_process
from common.digest import digest_of
from common.errors import Unavailable
from common.store.blob_store import open_store
from tests.samples.drafts import Press


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
        connection.execute(insert(blob_tombstones).values(digest=digest_of(b""), sweeper=this_process()))
    with pytest.raises(Unavailable):
        claim_blobs(press.database, [digest_of(b"")], "builds/1")


def _tombstones(press: Press) -> list[str]:
    with press.database.read() as connection:
        return list(connection.scalars(select(blob_tombstones.c.digest)))


def test_what_a_dead_sweeper_began_is_finished_and_what_a_living_one_does_is_left(
    press: Press, sweeper: Sweeper
) -> None:
    dead, living = press.put(b"data"), press.put(b"other")
    for digest, name in ((dead, this_process() + "0"), (living, this_process())):
        with press.database.write() as connection:
            connection.execute(insert(blob_tombstones).values(digest=digest, sweeper=name))
    sweeper.finish()
    assert not press.store.has(dead)
    assert press.store.has(living)
    assert _tombstones(press) == [living]


def test_a_store_that_fails_keeps_nobody_waiting(
    press: Press, sweeper: Sweeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_digest: str) -> None:
        raise OSError("the store is away")

    monkeypatch.setattr(press.store, "delete", fail)
    with pytest.raises(OSError, match="away"):
        sweeper.sweep([press.put(b"data")])
    assert _tombstones(press) == []
