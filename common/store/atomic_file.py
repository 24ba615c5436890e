"""Files of a local store: written under a temporary name, synced to the disk, then renamed and read-only.

A crash or a power failure never leaves a partial file under its name; `remove_abandoned` deletes the temporary files.
"""

from __future__ import annotations

import fcntl
import os
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_NEW_S = 60.0


def write_whole(path: Path, pieces: Iterable[bytes], aside: Path) -> None:
    """Write a file by way of a temporary one in the folder `aside`, on the same disk; if `pieces` raises, there is no
    file.
    """
    with _file_in(aside) as written, written.open("xb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed: see `_remove_if_abandoned`
        for data in pieces:
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
        written.chmod(0o444)
        path.parent.mkdir(parents=True, exist_ok=True)
        written.rename(path)
    _sync_folder(path.parent)


def remove_abandoned(aside: Path) -> None:
    """Remove the temporary files that dead writers have left in the folder `aside`."""
    for file in aside.glob("*"):
        _remove_if_abandoned(file)


@contextmanager
def _file_in(folder: Path) -> Iterator[Path]:
    path = folder / uuid.uuid4().hex
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _remove_if_abandoned(path: Path) -> None:
    """Remove a temporary file unless its writer holds the lock; a new file may not be locked yet."""
    with suppress(FileNotFoundError, BlockingIOError), path.open("rb") as file:
        if time.time() - path.stat().st_mtime > _NEW_S:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
