"""What may stand where a file should: a pipe that nobody writes to, an endless device, a folder, a link to nowhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

KINDS: Mapping[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a folder": Path.mkdir,
    "a link to itself": lambda path: path.symlink_to(path),
    "a link to nothing": lambda path: path.symlink_to("gone"),
}


def put(kind: str, path: Path) -> None:
    """Put what is not a file in the place of a file."""
    path.unlink(missing_ok=True)
    KINDS[kind](path)
