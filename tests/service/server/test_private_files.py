"""What holds conversations is readable by its owner alone, whatever the umask, and however it was before."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.private import make_private_folder
from tests.service.runtime.runtime import Bench


@pytest.fixture(params=[0o000, 0o022, 0o077])
def _umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def readable(folder: Path) -> list[str]:
    """What others may reach and read under a folder, itself included."""
    paths = [folder, *(path for path in folder.rglob("*") if "blobs" not in path.parts)]
    return [str(path.relative_to(folder)) for path in paths if _is_open(path, folder)]


def _is_open(path: Path, top: Path) -> bool:
    above = [parent for parent in path.parents if parent.is_relative_to(top) and parent != top]
    return all(stat.S_IMODE(one.stat().st_mode) & 0o077 for one in (*above, path))


@pytest.mark.usefixtures("_umask")
async def test_conversations_are_the_owners_alone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    bench = Bench(home, {"durability": "tokens_and_kv", "snapshot_turns": 1})
    bench.publish()
    await bench.start()
    stream = await bench.opened()
    await stream.said("1")
    await stream.half_close()
    await stream.rest()
    await bench.stop()
    assert list((home / "store" / "sessions").rglob("*")), "there is a snapshot"
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert stat.S_IMODE((home / "sinkserve.db").stat().st_mode) == 0o600
    home.chmod(0o755)  # what is in it is closed too, but for what is nobody's
    assert set(readable(home)) <= {".", "store", "parked"}


async def test_what_was_open_before_is_closed_at_the_next_start(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {})
    bench.publish()
    for path, mode in ((tmp_path, 0o755), (tmp_path / "sinkserve.db", 0o644)):
        path.chmod(mode)
    await bench.start()
    files = [tmp_path / f"sinkserve.db{end}" for end in ("", "-shm", "-wal")]
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path, *files)]
    await bench.stop()
    assert modes == [0o700, 0o600, 0o600, 0o600]


def test_a_folder_of_everybody_stays_so(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    make_private_folder(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o1777
