from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.digest import digest_of
from common.engine.engine import SlotState
from runtime_service.storage import cache_files
from runtime_service.storage.cache_files import CacheFiles
from tests.samples.session_examples import slot_state

ENGINE = digest_of(b"engine")
SIZE = slot_state().size_bytes


@pytest.fixture
def files(tmp_path: Path) -> Iterator[CacheFiles]:
    files = CacheFiles(tmp_path / "parked", 3 * SIZE)
    yield files
    files.close()
    assert not (tmp_path / "parked").exists()


def _written(files: CacheFiles) -> None:
    """Return when the disk has all of it."""
    files.writer.submit(lambda: None).result()


def _same(found: SlotState | None, state: SlotState) -> bool:
    return found is not None and found.keys.tobytes() == state.keys.tobytes() and found.position == state.position


@pytest.mark.parametrize("waits", [True, False])
def test_what_is_put_is_found_before_and_after_it_is_written(files: CacheFiles, tmp_path: Path, waits: bool) -> None:
    state = slot_state()
    assert files.put(1, 0, ENGINE, state)
    if waits:
        _written(files)
    assert files.size_bytes == SIZE
    assert files.take(2, ENGINE) is None
    assert _same(files.take(1, ENGINE), state)
    assert files.take(1, ENGINE) is None, "it is where it was taken to"
    assert files.size_bytes == 0
    _written(files)
    assert not list((tmp_path / "parked").glob("*"))


def test_what_is_dropped_is_gone(files: CacheFiles, tmp_path: Path) -> None:
    files.put(1, 0, ENGINE, slot_state())
    _written(files)
    files.drop(1)
    assert files.take(1, ENGINE) is None
    assert not list((tmp_path / "parked").glob("*"))


def test_the_newest_state_of_a_session_counts(files: CacheFiles, tmp_path: Path) -> None:
    for seed in range(5):
        files.put(1, 0, ENGINE, slot_state(seed=seed))
    _written(files)
    assert [path.name for path in (tmp_path / "parked").iterdir()] == ["1.kv"]
    assert _same(files.take(1, ENGINE), slot_state(seed=4))


def test_the_oldest_makes_room(files: CacheFiles, tmp_path: Path) -> None:
    for key in (1, 2, 3):
        files.put(key, 0, ENGINE, slot_state(seed=key))
    files.put(1, 0, ENGINE, slot_state(seed=1))
    files.put(4, 0, ENGINE, slot_state(seed=4))
    _written(files)
    assert [key for key in range(1, 5) if files.has(key)] == [1, 3, 4]
    assert files.size_bytes == 3 * SIZE
    assert sorted(path.name for path in (tmp_path / "parked").iterdir()) == ["1.kv", "3.kv", "4.kv"]


def test_what_can_never_fit_is_not_taken(files: CacheFiles) -> None:
    files.put(1, 0, ENGINE, slot_state())
    assert not files.put(2, 0, ENGINE, slot_state(rows=1000))
    assert files.take(1, ENGINE) is not None


def test_no_more_waits_for_the_disk_than_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_files, "MOST_UNWRITTEN_BYTES", 2 * SIZE)
    files = CacheFiles(tmp_path / "parked", 100 * SIZE)
    slow = threading.Event()
    files.writer.submit(slow.wait)
    assert [files.put(key, 0, ENGINE, slot_state()) for key in range(3)] == [True, True, False]
    slow.set()
    _written(files)
    assert files.put(3, 0, ENGINE, slot_state())
    files.close()


@pytest.mark.parametrize(("epoch", "here"), [(8, True), (7, False), (9, False)])
def test_a_file_counts_only_if_nobody_had_the_session_meanwhile(files: CacheFiles, epoch: int, here: bool) -> None:
    files.put(1, 7, ENGINE, slot_state())
    position = slot_state().position
    assert files.claimed(1, epoch, position) is here
    assert files.has(1) is here
    assert files.claimed(1, 9, position) is here, "its epoch goes on with the session's"
    assert not files.claimed(2, 1, position)


def test_a_file_with_a_turn_that_was_not_kept_does_not_count(files: CacheFiles) -> None:
    state = slot_state()
    files.put(1, 7, ENGINE, state)
    assert not files.claimed(1, 8, state.position - 1)
    assert files.take(1, ENGINE) is None


@pytest.mark.parametrize("damage", ["cut", "gone", "other"])
def test_a_file_that_cannot_be_used_is_none(files: CacheFiles, tmp_path: Path, damage: str) -> None:
    files.put(1, 0, ENGINE, slot_state())
    _written(files)
    path = tmp_path / "parked" / "1.kv"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "gone":
        path.unlink()
    assert files.take(1, digest_of(b"x") if damage == "other" else ENGINE) is None
    assert files.size_bytes == 0


def test_a_disk_that_takes_nothing_loses_the_cache_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "parked").write_text("a file where the folder should be")
    files = CacheFiles(tmp_path / "parked", 10 * SIZE)
    files.put(1, 0, ENGINE, slot_state())
    _written(files)
    assert files.take(1, ENGINE) is None
    assert files.put(2, 0, ENGINE, slot_state())
