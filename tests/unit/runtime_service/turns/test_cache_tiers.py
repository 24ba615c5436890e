"""Which tier a cache is kept in, and which is asked first."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from common.engine.engine import SlotState
from common.errors import Reason, Unavailable
from runtime_service.decoding.token_history import TokenHistory
from runtime_service.domain.durability import Durability
from runtime_service.domain.session import Session
from runtime_service.scheduling.slots import Tenant
from runtime_service.storage.cache_files import CacheFiles
from runtime_service.turns import cache_tiers
from runtime_service.turns.cache_tiers import CacheTiers
from tests.samples.session_examples import SESSION, slot_state
from tests.samples.whole_manifests import DIGEST

KEPT = replace(SESSION, key=7, epoch=3, position=9)
WITH_SNAPSHOTS = replace(KEPT, options=replace(KEPT.options, durability=Durability.TOKENS_AND_KV))
NOT_KEPT = replace(KEPT, options=replace(KEPT.options, durability=Durability.NONE))


class Snapshots:
    """One snapshot at most; `failure` is raised where it would be stored, `hangs` until it is set."""

    def __init__(self) -> None:
        self.newest: SlotState | None = None
        self.deleted: list[str] = []
        self.failure: Exception | None = None
        self.goes_on = threading.Event()
        self.goes_on.set()

    def has(self, _session: Session) -> bool:
        return self.newest is not None

    def load(self, _session: Session) -> SlotState | None:
        self.goes_on.wait()
        return self.newest

    def keep(self, _session: Session, state: SlotState) -> None:
        self.goes_on.wait()
        if self.failure is not None:
            raise self.failure
        self.newest = state

    def delete(self, keys: list[str]) -> None:
        self.deleted += keys


@pytest.fixture
def snapshots() -> Snapshots:
    return Snapshots()


@pytest.fixture
def tiers(tmp_path: Path, snapshots: Snapshots) -> Iterator[CacheTiers]:
    tiers = CacheTiers(CacheFiles(tmp_path / "files", 1 << 20), cast("Any", snapshots))
    yield tiers
    snapshots.goes_on.set()
    tiers.files.close()
    tiers.threads.shutdown()


async def test_the_disk_is_asked_before_the_snapshots_and_gives_its_cache_away(
    tiers: CacheTiers, snapshots: Snapshots
) -> None:
    on_disk, snapshots.newest = slot_state(9, seed=1), slot_state(8, seed=2)
    await tiers.keep(KEPT, on_disk)
    assert tiers.has_file(KEPT)
    found = [await tiers.fetch(KEPT), await tiers.fetch(KEPT)]
    assert [state.position for state in found if state is not None] == [9, 8]


async def test_a_cache_with_more_than_was_written_is_not_used(tiers: CacheTiers, snapshots: Snapshots) -> None:
    snapshots.newest = slot_state(10)
    assert await tiers.fetch(KEPT) is None


@pytest.mark.parametrize(("session", "snapshot"), [(KEPT, False), (WITH_SNAPSHOTS, True)])
async def test_a_snapshot_is_stored_of_a_session_that_asks_for_it(
    tiers: CacheTiers, snapshots: Snapshots, session: Session, *, snapshot: bool
) -> None:
    await tiers.keep(session, slot_state(9))
    assert (snapshots.newest is not None, tiers.has_file(session)) == (snapshot, True)


async def test_nothing_is_kept_of_a_session_that_is_not_kept(tiers: CacheTiers, snapshots: Snapshots) -> None:
    await tiers.keep(NOT_KEPT, slot_state(9))
    snapshots.newest = slot_state(9)
    assert not tiers.has_file(NOT_KEPT)
    assert await tiers.fetch(NOT_KEPT) is None


@pytest.mark.parametrize(("key", "kept"), [(7, True), (0, False)])
def test_what_leaves_host_memory_goes_to_disk_if_its_session_has_a_key(
    tiers: CacheTiers, key: int, *, kept: bool
) -> None:
    tenant = Tenant("sessions/a", TokenHistory(KEPT.window), key=key, epoch=3)
    assert tiers.spill(DIGEST, tenant, slot_state(9)) is kept
    assert tiers.has_file(KEPT) is kept


async def test_a_session_that_was_claimed_has_the_cache_of_the_epoch_before(
    tiers: CacheTiers, snapshots: Snapshots
) -> None:
    await tiers.keep(KEPT, slot_state(9))
    assert tiers.is_kept(replace(KEPT, epoch=4))
    assert not tiers.is_kept(replace(KEPT, epoch=9)), "others had it meanwhile"
    snapshots.newest = slot_state(8)
    assert tiers.is_kept(replace(KEPT, epoch=10))


async def test_a_store_that_hangs_or_fails_costs_a_snapshot_and_nothing_else(
    tiers: CacheTiers, snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshots.failure = Unavailable(Reason.STORE_UNAVAILABLE, "away")
    assert not await tiers.store_snapshot(KEPT, slot_state(9))
    snapshots.failure = None
    monkeypatch.setattr(cache_tiers, "MOST_S", 0)
    snapshots.goes_on.clear()
    assert not await tiers.store_snapshot(KEPT, slot_state(9))
    assert await tiers.fetch(KEPT) is None


async def test_what_is_dropped_is_nowhere(tiers: CacheTiers, snapshots: Snapshots) -> None:
    await tiers.keep(KEPT, slot_state(9))
    tiers.drop(KEPT, ["one", "two"])
    assert (tiers.has_file(KEPT), snapshots.deleted) == (False, ["one", "two"])
