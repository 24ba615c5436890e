"""Folders and files that nobody but their owner may read, whatever the umask: they hold conversations."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def make_private_folder(path: Path) -> None:
    """Make a folder, with those above it; one that is there already, and is ours, is closed to others.

    A folder that everybody may write to, such as /tmp, stays as it is. Raises OSError if it cannot be made.
    """
    path.mkdir(mode=stat.S_IRWXU, parents=True, exist_ok=True)
    _close(path)


def make_private_file(path: Path) -> None:
    """Make an empty file, if there is none; one that is there already, and is ours, is closed to others.

    One that is there is not opened: to close it would lose the locks that SQLite has on it in this process, and with
    them the database (https://sqlite.org/howtocorrupt.html, 2.2). Raises OSError if it cannot be made.
    """
    with suppress(FileExistsError):
        os.close(open_private(os.path.realpath(path), os.O_CREAT | os.O_EXCL | os.O_RDWR))
    _close(path)


def close_file(path: Path) -> None:
    """Close a file to others, if there is one and it is ours."""
    with suppress(FileNotFoundError):
        _close(path)


def open_private(path: str, flags: int) -> int:
    """An opener for `open`, whose new files are the owner's alone."""
    return os.open(path, flags | os.O_CLOEXEC, stat.S_IRUSR | stat.S_IWUSR)


def _close(path: Path) -> None:
    found = path.stat()
    if found.st_uid == os.geteuid() and found.st_mode & _OTHERS and not found.st_mode & stat.S_ISVTX:
        path.chmod(stat.S_IMODE(found.st_mode) & ~_OTHERS)
