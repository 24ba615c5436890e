"""Files that are read again when they change, without a restart: certificates, keys, policies.

A file that cannot be read or makes no sense is told in the log, and what was read before stays.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Generic, TypeVar

import structlog

from common.settings import SettingsError

CHECK_S = 1.0
"""How often a file is looked at, at most."""
MOST_BYTES = 4 << 20

T = TypeVar("T")
Stamp = tuple[int, int, int]

log = structlog.get_logger()


class Watched(Generic[T]):
    """What the files of a setting say; many threads may ask. `read` takes their bytes and raises ValueError.

    Raises SettingsError, naming the setting, if they cannot be used at first.
    """

    def __init__(self, setting: str, paths: tuple[Path, ...], read: Callable[..., T]) -> None:
        self._setting = setting
        self._paths = paths
        self._read = read
        self._lock = Lock()
        self._looked_at = time.monotonic()
        try:
            self._stamps = self._look()
            self._value = self._load()
        except (OSError, ValueError) as error:
            raise SettingsError(f"{setting}: {_cause(error)}") from None

    @property
    def value(self) -> T:
        """As of a second ago, at most."""
        if time.monotonic() - self._looked_at >= CHECK_S and self._lock.acquire(blocking=False):
            try:
                self._refresh()
            finally:
                self._looked_at = time.monotonic()
                self._lock.release()
        return self._value

    def _refresh(self) -> None:
        try:
            if (stamps := self._look()) == self._stamps:
                return
            self._stamps = stamps
            self._value = self._load()
        except (OSError, ValueError) as error:
            log.warning("file.refused", setting=self._setting, cause=_cause(error), stays="what was read before")
            return
        log.info("file.reloaded", setting=self._setting, files=[str(path) for path in self._paths])

    def _look(self) -> tuple[Stamp, ...]:
        """Links are followed: a mounted secret changes by its link."""
        found = (path.stat() for path in self._paths)
        return tuple((each.st_ino, each.st_mtime_ns, each.st_size) for each in found)

    def _load(self) -> T:
        return self._read(*map(_bytes, self._paths))


def _bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        found = file.read(MOST_BYTES + 1)
    if len(found) > MOST_BYTES:
        raise ValueError(f"{path} is larger than {MOST_BYTES} bytes")
    return found


def _cause(error: OSError | ValueError) -> str:
    return f"cannot read {error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
